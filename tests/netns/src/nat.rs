//! The kinds of NAT that RFC 3489 named, as rules of nftables. RFC 4787's words for the same are beside them.

/// What a NAT does with UDP. TCP passes outwards through each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum NatKind {
    /// One outside port for each inside one, and whoever sends there gets in. (Endpoint-independent mapping, endpoint-independent
    /// filtering.)
    FullCone,
    /// The same, but only for addresses that the inside has sent to. (Address-dependent filtering.)
    AddressRestricted,
    /// The same, but only for address and port that the inside has sent to. (Address and port-dependent filtering.) What
    /// Linux itself does, and most homes have.
    PortRestricted,
    /// A random outside port for each address and port that is sent to, and only those get in. (Address and
    /// port-dependent mapping and filtering.)
    Symmetric,
}

impl NatKind {
    /// The rules for a router with these two interfaces.
    pub(crate) fn script(self, wan: &str) -> String {
        // What may come in is remembered as packets go out, by every packet, and forgotten after two minutes of
        // silence (RFC 4787, REQ-5). Inside ports are kept outside, so that the inside port is the key.
        let (memory, remember, admit) = match self {
            Self::FullCone => (
                "map open { type inet_service : ipv4_addr; flags dynamic, timeout; timeout 2m; size 65535; }",
                "update @open { udp sport : ip saddr }",
                "dnat to udp dport map @open",
            ),
            Self::AddressRestricted => (
                "map open { type inet_service . ipv4_addr : ipv4_addr; flags dynamic, timeout; timeout 2m; size 65535; }",
                "update @open { udp sport . ip daddr : ip saddr }",
                "dnat to udp dport . ip saddr map @open",
            ),
            // The kernel's own memory of connections does it.
            Self::PortRestricted | Self::Symmetric => ("", "accept", "accept"),
        };
        let masquerade = match self {
            Self::Symmetric => "masquerade fully-random",
            _ => "masquerade",
        };
        format!(
            "table ip nat {{
               {memory}
               chain leaving {{
                 type filter hook postrouting priority 90;
                 oifname \"{wan}\" meta l4proto udp {remember};
               }}
               chain translate {{
                 type nat hook postrouting priority 100;
                 oifname \"{wan}\" {masquerade};
               }}
               chain admit {{
                 type nat hook prerouting priority -100;
                 iifname \"{wan}\" meta l4proto udp {admit};
               }}
               chain pass {{
                 type filter hook forward priority 0; policy drop;
                 oifname \"{wan}\" accept;
                 ct state established,related accept;
                 ct status dnat accept;
               }}
               # Dropped in silence, and before it becomes a connection that would take the port from the inside.
               chain here {{
                 type filter hook input priority 0;
                 iifname \"{wan}\" meta l4proto udp drop;
               }}
             }}"
        )
    }
}
