//! What to check when nobody is found.

use crate::{DdsConfig, Interfaces};

/// Participants of one machine with a number from here on are found by multicast only.
const MULTICAST_ONLY: u16 = 12;

/// `found` participants on the domain, `agents` of them verified and trusted, and no link.
pub(crate) fn nobody(config: &DdsConfig, found: u64, agents: usize, participant: u16) -> String {
    let (domain, after) = (config.domain, config.discovery_warning);
    let interfaces = match &config.interfaces {
        Interfaces::All => "all interfaces".to_owned(),
        Interfaces::Only(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            addresses.join(", ")
        }
    };
    let (port, last) = (
        7400 + 250 * u32::from(domain),
        7400 + 250 * u32::from(domain) + 249,
    );
    let mut text = format!("no link over DDS after {after:?} on domain {domain}, {interfaces}: ");
    match (found, agents) {
        (0, _) => {
            text += &format!(
                "no other participant was found. Check that the others use domain {domain} too; that they are reached by \
                 these interfaces (`interfaces` in the configuration; loopback alone is the default); that the interfaces \
                 have multicast (`ip link set lo multicast on; ip route add 239.0.0.0/8 dev lo`); and that no firewall \
                 blocks UDP to 239.255.0.1 and to ports {port} to {last}"
            );
        }
        (_, 0) => {
            text += "there are other participants, and none of them is an agent that this one trusts. Check the trust file: \
                     refusals say who was there";
        }
        _ => {
            text += "trusted agents are there and do not answer. Check that a firewall lets UDP pass both ways, and that \
                     the other side trusts this agent's key";
        }
    }
    if participant >= MULTICAST_ONLY {
        text += &format!(
            ". This is participant {participant} of this machine: beyond the first {MULTICAST_ONLY}, they find each other by \
             multicast only"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falsified by a warning that leaves out what is to be checked.
    #[test]
    fn each_case_says_what_to_check() {
        let config = DdsConfig::default();
        let alone = nobody(&config, 0, 0, 0);
        for hint in [
            "domain 0",
            "127.0.0.1",
            "multicast on",
            "firewall",
            "7400 to 7649",
        ] {
            assert!(alone.contains(hint), "{hint}: {alone}");
        }
        assert!(nobody(&config, 3, 0, 0).contains("trust file"));
        assert!(nobody(&config, 3, 1, 0).contains("do not answer"));
        assert!(nobody(&config, 0, 0, 12).contains("participant 12"));
        assert!(!nobody(&config, 0, 0, 11).contains("participant 11"));
    }
}
