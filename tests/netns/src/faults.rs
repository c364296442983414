//! What the network does to a host's packets. It happens on the way, in the switch: to the host its own sends succeed.

use std::fmt::Write as _;

/// What no longer passes between a host and its networks, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// Everything: the cable is out, though the interface stays up and the neighbours' hardware addresses stay known.
    All,
    /// UDP.
    Udp,
    /// UDP from or to this port.
    UdpPort(u16),
    /// TCP from or to this port.
    TcpPort(u16),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Faults {
    /// Of a hundred thousand packets, how many are lost.
    pub(crate) loss: u32,
    pub(crate) cuts: Vec<Cut>,
}

impl Faults {
    /// The rules for the host behind these ports of the switch, in a table of their own, which they replace.
    pub(crate) fn script(&self, table: &str, ports: &[String]) -> String {
        let mut script = format!("table bridge {table}\ndelete table bridge {table}\n");
        if ports.is_empty() || (self.loss == 0 && self.cuts.is_empty()) {
            return script;
        }
        let ports = ports
            .iter()
            .map(|port| format!("\"{port}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let rules = self.rules();
        // Writing into a string cannot fail.
        let _ = write!(
            script,
            "table bridge {table} {{
               chain faults {{
                 {rules}
               }}
               chain sent {{ type filter hook prerouting priority -300; iifname {{ {ports} }} jump faults; }}
               chain received {{ type filter hook postrouting priority 300; oifname {{ {ports} }} jump faults; }}
             }}"
        );
        script
    }

    fn rules(&self) -> String {
        let mut rules = Vec::new();
        for cut in &self.cuts {
            rules.push(match cut {
                Cut::All => "meta protocol { ip, ip6 } drop".to_owned(),
                Cut::Udp => "meta l4proto udp drop".to_owned(),
                Cut::UdpPort(port) => format!("udp sport {port} drop; udp dport {port} drop"),
                Cut::TcpPort(port) => format!("tcp sport {port} drop; tcp dport {port} drop"),
            });
        }
        if self.loss > 0 {
            // Address resolution is spared: a lost packet of its own would cost a second, which no cable does.
            rules.push(format!(
                "meta protocol {{ ip, ip6 }} numgen random mod 100000 < {} drop",
                self.loss
            ));
        }
        rules.join("\n")
    }
}
