//! Which addresses may be dialed: a guard against requests forged on the server's side (SSRF).

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// None of a name's addresses may be dialed: nothing was opened.
///
/// What was asked of the hook of [`Tcp::admit`](super::Tcp::admit) it did not admit. Asking again does not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdmitted {
    address: SocketAddr,
    rule: Cow<'static, str>,
    others: usize,
}

/// Admits addresses of the public Internet and nothing else: for [`Tcp::admit`](super::Tcp::admit) where the URI, or a part of it,
/// comes from somebody who is not to reach what is inside.
///
/// Refused is what IANA's registries of special-purpose addresses (RFC 6890) do not call globally reachable: this host,
/// private, shared (carriers' NAT), loopback, link-local, documentation, benchmarking, multicast, reserved. So is every service of
/// clouds that tells secrets to whoever asks from inside ("metadata"), also where its address looks public. An IPv6 address that
/// stands for an IPv4 address (mapped, translated, NAT64, 6to4) is judged by that; any other outside of 2000::/3 is refused.
///
/// ```
/// use outbound_pool::connect::{Tcp, public_only};
///
/// // One host inside is an exception.
/// let ours = "10.1.2.3".parse::<std::net::IpAddr>()?;
/// let connector = Tcp::new().admit(move |address| match address.ip() {
///     ip if ip == ours => Ok(()),
///     _ => public_only(address),
/// });
/// assert_eq!(public_only("127.0.0.1:80".parse()?), Err("loopback (RFC 1122, 3.2.1.3)".into()));
/// assert_eq!(public_only("[64:ff9b::a00:1]:80".parse()?), Err("private (RFC 1918, 3)".into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The rule that the address falls under.
pub fn public_only(address: SocketAddr) -> Result<(), Cow<'static, str>> {
    match rule(address.ip()) {
        Some(rule) => Err(rule.into()),
        None => Ok(()),
    }
}

fn rule(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => rule_v4(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(ip) => rule_v4(ip),
            None => rule_v6(ip),
        },
    }
}

fn rule_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let within = |prefix: Ipv4Addr, length: u32| (ip.to_bits() ^ prefix.to_bits()).leading_zeros() >= length;
    V4.iter().find(|&&([a, b, c, d], length, _)| within(Ipv4Addr::new(a, b, c, d), length)).map(|row| row.2)
}

fn rule_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let within = |prefix: Ipv6Addr, length: u32| (ip.to_bits() ^ prefix.to_bits()).leading_zeros() >= length;
    let special = V6.iter().find(|&&(prefix, length, _)| within(prefix.into(), length)).map(|row| row.2);
    let is_global = within([0x2000, 0, 0, 0, 0, 0, 0, 0].into(), 3);
    special.or((!is_global).then_some("not global unicast (RFC 4291, 2.4)"))
}

/// The IPv4 address that a host, a translator or a relay would make of `ip`.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // Mapped (RFC 4291, 2.5.5.2), translated (RFC 2765, 2.1), NAT64 (RFC 6052, 2.1).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4 (RFC 3056, 2).
        | [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

// === NotAdmitted ===

impl NotAdmitted {
    /// `address` is refused by `rule`, and so are `others` more of the same name.
    pub(super) fn new(address: SocketAddr, rule: Cow<'static, str>, others: usize) -> Self {
        Self { address, rule, others }
    }

    /// The first address that was refused.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The rule that refused it, in the hook's words.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, rule, others } = self;
        write!(f, "{address} is not to be dialed: {rule}")?;
        match others {
            0 => Ok(()),
            others => write!(f, "; nor are {others} more"),
        }
    }
}

impl Error for NotAdmitted {}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>, without those that are globally reachable.
const V4: &[([u8; 4], u32, &str)] = &[
    ([169, 254, 169, 254], 32, "cloud metadata (link-local)"),
    ([169, 254, 170, 2], 32, "cloud metadata (link-local, of containers)"),
    ([100, 100, 100, 200], 32, "cloud metadata (in shared address space)"),
    ([192, 0, 0, 192], 32, "cloud metadata (in protocol assignments)"),
    ([168, 63, 129, 16], 32, "cloud metadata (with a public address)"),
    ([0, 0, 0, 0], 32, "unspecified (RFC 1122, 3.2.1.3)"),
    ([0, 0, 0, 0], 8, "this network (RFC 791, 3.2)"),
    ([10, 0, 0, 0], 8, "private (RFC 1918, 3)"),
    ([100, 64, 0, 0], 10, "shared address space (RFC 6598, 7)"),
    ([127, 0, 0, 0], 8, "loopback (RFC 1122, 3.2.1.3)"),
    ([169, 254, 0, 0], 16, "link-local (RFC 3927, 2.1)"),
    ([172, 16, 0, 0], 12, "private (RFC 1918, 3)"),
    ([192, 0, 0, 0], 24, "protocol assignments (RFC 6890, 2.1)"),
    ([192, 0, 2, 0], 24, "documentation (RFC 5737, 3)"),
    ([192, 88, 99, 0], 24, "6to4 relay anycast (RFC 7526, 1)"),
    ([192, 168, 0, 0], 16, "private (RFC 1918, 3)"),
    ([198, 18, 0, 0], 15, "benchmarking (RFC 2544, C.2.2)"),
    ([198, 51, 100, 0], 24, "documentation (RFC 5737, 3)"),
    ([203, 0, 113, 0], 24, "documentation (RFC 5737, 3)"),
    ([224, 0, 0, 0], 4, "multicast (RFC 5771, 3)"),
    ([255, 255, 255, 255], 32, "limited broadcast (RFC 919, 7)"),
    ([240, 0, 0, 0], 4, "reserved (RFC 1112, 4)"),
];

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>, likewise.
const V6: &[([u16; 8], u32, &str)] = &[
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata (unique local)"),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata (unique local)"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified (RFC 4291, 2.5.2)"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback (RFC 4291, 2.5.3)"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible (RFC 4291, 2.5.5.1)"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local NAT64 (RFC 8215, 3)"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard-only (RFC 6666, 4)"),
    ([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix (RFC 9780, 4)"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo (RFC 4380, 2.6)"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking (RFC 5180, 8)"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "protocol assignments (RFC 2928, 2)"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation (RFC 3849, 2)"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation (RFC 9637, 3)"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing (RFC 9602, 3)"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local (RFC 4193, 3.1)"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local (RFC 4291, 2.5.6)"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local (RFC 3879, 4)"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast (RFC 4291, 2.7)"),
];
