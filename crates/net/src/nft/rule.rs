//! Rules as the kernel's expressions: each method adds the expressions of one statement of the `nft` language.

use super::table::Verdict;
use super::{Family, octets};
use crate::netlink::Message;
use ipnet::IpNet;
use std::net::IpAddr;

// linux/netfilter/nf_tables.h
const EXPR_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CT_STATE: u32 = 0;
const CT_STATE_NEW: u32 = 8;
const RT_NEXTHOP4: u32 = 1;
const RT_NEXTHOP6: u32 = 2;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const FIB_ADDRTYPE: u32 = 3;
const NAT_DNAT: u32 = 1;
const NG_RANDOM: u32 = 1;
const MASQ_FULLY_RANDOM: u32 = 1 << 4;
const REJECT_TCP_RST: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACH: u8 = 1;
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;

/// The first of the 32-bit registers; register 0 holds the verdict.
const R0: u32 = 8;
const VERDICT: u32 = 0;

/// What is read from a packet, each into whole 32-bit registers, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The transport protocol's number.
    L4Proto,
    Saddr(Family),
    Daddr(Family),
    /// The destination port of TCP, UDP or SCTP.
    Dport,
}

impl Field {
    fn words(self) -> u32 {
        match self {
            Field::L4Proto | Field::Dport => 1,
            Field::Saddr(family) | Field::Daddr(family) => family.width() as u32 / 4,
        }
    }
}

/// One rule: statements that are tried from left to right until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Message);

impl Default for Rule {
    fn default() -> Rule {
        Rule(Message::new(0, 0, &[]))
    }
}

impl Rule {
    /// Of one address family; needed before any of its addresses are read.
    pub fn family(family: Family) -> Rule {
        Rule::default().meta(META_NFPROTO).cmp(CMP_EQ, &[family.number()])
    }

    /// The list of expressions, as a rule's message carries it.
    pub fn expressions(&self) -> &[u8] {
        self.0.payload()
    }

    // Matches.

    pub fn l4proto(self, number: u8) -> Rule {
        self.meta(META_L4PROTO).cmp(CMP_EQ, &[number])
    }

    pub fn dport_is_not(self, port: u16) -> Rule {
        self.load(&[Field::Dport]).cmp(CMP_NEQ, &port.to_be_bytes())
    }

    /// The address lies in the range, or with `inside` false does not.
    pub fn within(self, address: Field, range: IpNet, inside: bool) -> Rule {
        let op = if inside { CMP_EQ } else { CMP_NEQ };
        self.load(&[address]).mask(&octets(range.netmask())).cmp(op, &octets(range.network()))
    }

    /// The destination is an address of this machine.
    pub fn to_local(self) -> Rule {
        self.fib(FIB_DADDR)
    }

    /// The source is an address of this machine.
    pub fn from_local(self) -> Rule {
        self.fib(FIB_SADDR)
    }

    /// The packet came from an interface whose name begins so.
    pub fn from_interfaces(self, prefix: &str) -> Rule {
        self.meta(META_IIFNAME).cmp(CMP_EQ, prefix.as_bytes())
    }

    /// The packet leaves by an interface whose name begins so, or with `inside` false does not.
    pub fn to_interfaces(self, prefix: &str, inside: bool) -> Rule {
        self.meta(META_OIFNAME).cmp(if inside { CMP_EQ } else { CMP_NEQ }, prefix.as_bytes())
    }

    /// The packet leaves by exactly this interface.
    pub fn to_interface(self, name: &str) -> Rule {
        let mut padded = [0; 16];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        self.meta(META_OIFNAME).cmp(CMP_EQ, &padded)
    }

    /// The packet begins a connection.
    pub fn begins(self) -> Rule {
        self.expression("ct", |e| e.be32(1, R0).be32(2, CT_STATE))
            .mask(&CT_STATE_NEW.to_ne_bytes())
            .cmp(CMP_NEQ, &0u32.to_ne_bytes())
    }

    /// The packet's route, as it is after a translation, leads through this gateway.
    pub fn through(self, gateway: IpAddr) -> Rule {
        let key = match Family::of(gateway) {
            Family::V4 => RT_NEXTHOP4,
            Family::V6 => RT_NEXTHOP6,
        };
        self.expression("rt", |e| e.be32(1, R0).be32(2, key)).cmp(CMP_EQ, &octets(gateway))
    }

    pub fn marked(self, bit: u32) -> Rule {
        self.meta(META_MARK).mask(&bit.to_ne_bytes()).cmp(CMP_NEQ, &0u32.to_ne_bytes())
    }

    /// The fields together are in the set.
    pub fn in_set(self, fields: &[Field], set: &str) -> Rule {
        self.load(fields).lookup(set, R0, None)
    }

    // What a rule does.

    pub fn set_mark(self, bit: u32) -> Rule {
        self.change_mark(!bit, bit)
    }

    pub fn clear_mark(self, bit: u32) -> Rule {
        self.change_mark(!bit, 0)
    }

    /// Does what the verdict map says for the fields; continues where it says nothing.
    pub fn vmap(self, fields: &[Field], map: &str) -> Rule {
        self.load(fields).lookup(map, R0, Some(VERDICT))
    }

    pub fn verdict(self, verdict: &Verdict) -> Rule {
        self.expression("immediate", |e| e.be32(1, VERDICT).nest(2, |data| verdict_data(data, verdict)))
    }

    pub fn masquerade(self) -> Rule {
        self.expression("masq", |e| e.be32(1, MASQ_FULLY_RANDOM))
    }

    pub fn reject_tcp_reset(self) -> Rule {
        self.expression("reject", |e| e.be32(1, REJECT_TCP_RST).attr(2, [0]))
    }

    pub fn reject_port_unreachable(self) -> Rule {
        self.expression("reject", |e| e.be32(1, REJECT_ICMPX).attr(2, [ICMPX_PORT_UNREACH]))
    }

    // Destination translation: an address and port are put into registers, then used.

    /// To the address and port that the map has for the fields.
    pub fn dnat_by_map(self, family: Family, fields: &[Field], map: &str) -> Rule {
        self.load(fields).lookup(map, R0, Some(R0)).dnat(family, R0)
    }

    /// To one address and port.
    pub fn dnat_to(self, address: IpAddr, port: u16) -> Rule {
        self.destination(R0, address, port).dnat(Family::of(address), R0)
    }

    /// To one of the `count` addresses and ports of a map that is keyed by 0 to `count`-1.
    pub fn dnat_to_any(self, family: Family, count: u32, map: &str) -> Rule {
        self.random(R0, count).lookup(map, R0, Some(R0)).dnat(family, R0)
    }

    /// To where the client's address was sent before, while that is in `alive`; keeps the memory of it fresh.
    pub fn dnat_by_affinity(self, family: Family, affinity: &str, alive: &str, timeout: u64) -> Rule {
        let client = family.width() as u32 / 4;
        self.load(&[Field::Saddr(family)])
            .lookup(affinity, R0, Some(R0 + client))
            .lookup(alive, R0 + client, None)
            .dynset(DYNSET_UPDATE, affinity, R0, R0 + client, Some(timeout))
            .dnat(family, R0 + client)
    }

    /// Forgets where the client's address was sent before.
    pub fn forget_affinity(self, family: Family, affinity: &str) -> Rule {
        // The kernel wants a value's register for every operation on a map, also where it does not read it.
        let client = family.width() as u32 / 4;
        let nowhere = match family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        self.load(&[Field::Saddr(family)]).destination(R0 + client, nowhere, 0).dynset(
            DYNSET_DELETE,
            affinity,
            R0,
            R0 + client,
            None,
        )
    }

    /// As [`Rule::dnat_to_any`], and remembers the choice for the client's address.
    pub fn dnat_with_affinity(self, family: Family, count: u32, map: &str, affinity: &str, timeout: u64) -> Rule {
        let client = family.width() as u32 / 4;
        self.random(R0 + client, count)
            .lookup(map, R0 + client, Some(R0 + client))
            .load(&[Field::Saddr(family)])
            .dynset(DYNSET_UPDATE, affinity, R0, R0 + client, Some(timeout))
            .dnat(family, R0 + client)
    }

    // Expressions.

    fn expression(self, name: &str, data: impl FnOnce(Message) -> Message) -> Rule {
        Rule(self.0.nest(EXPR_ELEM, |e| e.text(EXPR_NAME, name).nest(EXPR_DATA, data)))
    }

    fn load(mut self, fields: &[Field]) -> Rule {
        let mut register = R0;
        for field in fields {
            self = match *field {
                Field::L4Proto => self.expression("meta", |e| e.be32(1, register).be32(2, META_L4PROTO)),
                Field::Dport => self.payload(register, PAYLOAD_TRANSPORT, 2, 2),
                Field::Saddr(family) => self.address(register, family, 0),
                Field::Daddr(family) => self.address(register, family, family.width()),
            };
            register += field.words();
        }
        self
    }

    fn address(self, register: u32, family: Family, after: usize) -> Rule {
        let sources = match family {
            Family::V4 => 12,
            Family::V6 => 8,
        };
        self.payload(register, PAYLOAD_NETWORK, sources + after as u32, family.width() as u32)
    }

    fn payload(self, register: u32, base: u32, offset: u32, length: u32) -> Rule {
        self.expression("payload", |e| e.be32(1, register).be32(2, base).be32(3, offset).be32(4, length))
    }

    fn meta(self, key: u32) -> Rule {
        self.expression("meta", |e| e.be32(1, R0).be32(2, key))
    }

    fn cmp(self, op: u32, value: &[u8]) -> Rule {
        self.expression("cmp", |e| e.be32(1, R0).be32(2, op).nest(3, |data| data.attr(DATA_VALUE, value)))
    }

    fn mask(self, mask: &[u8]) -> Rule {
        self.bitwise(mask, &vec![0; mask.len()])
    }

    fn bitwise(self, mask: &[u8], xor: &[u8]) -> Rule {
        self.expression("bitwise", |e| {
            e.be32(1, R0)
                .be32(2, R0)
                .be32(3, mask.len() as u32)
                .nest(4, |data| data.attr(DATA_VALUE, mask))
                .nest(5, |data| data.attr(DATA_VALUE, xor))
        })
    }

    fn change_mark(self, mask: u32, xor: u32) -> Rule {
        self.meta(META_MARK)
            .bitwise(&mask.to_ne_bytes(), &xor.to_ne_bytes())
            .expression("meta", |e| e.be32(2, META_MARK).be32(3, R0))
    }

    fn fib(self, flags: u32) -> Rule {
        self.expression("fib", |e| e.be32(1, R0).be32(2, FIB_ADDRTYPE).be32(3, flags))
            .cmp(CMP_EQ, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    fn lookup(self, set: &str, source: u32, destination: Option<u32>) -> Rule {
        self.expression("lookup", |e| {
            let e = e.text(1, set).be32(2, source);
            match destination {
                Some(register) => e.be32(3, register),
                None => e,
            }
        })
    }

    fn random(self, register: u32, below: u32) -> Rule {
        self.expression("numgen", |e| e.be32(1, register).be32(2, below).be32(3, NG_RANDOM))
    }

    fn destination(self, register: u32, address: IpAddr, port: u16) -> Rule {
        let bytes = octets(address);
        let after = register + bytes.len() as u32 / 4;
        self.immediate(register, &bytes).immediate(after, &port.to_be_bytes())
    }

    fn immediate(self, register: u32, value: &[u8]) -> Rule {
        self.expression("immediate", |e| e.be32(1, register).nest(2, |data| data.attr(DATA_VALUE, value)))
    }

    /// The address stands in `register` and those after it, the port behind the address.
    fn dnat(self, family: Family, register: u32) -> Rule {
        let port = register + family.width() as u32 / 4;
        self.expression("nat", |e| {
            e.be32(1, NAT_DNAT).be32(2, u32::from(family.number())).be32(3, register).be32(5, port)
        })
    }

    fn dynset(self, op: u32, set: &str, key: u32, data: u32, milliseconds: Option<u64>) -> Rule {
        self.expression("dynset", |e| {
            let e = e.text(1, set).be32(3, op).be32(4, key).be32(5, data);
            match milliseconds {
                Some(timeout) => e.attr(6, timeout.to_be_bytes()),
                None => e,
            }
        })
    }
}

/// A verdict as an element's or an expression's data.
pub(super) fn verdict_data(data: Message, verdict: &Verdict) -> Message {
    data.nest(DATA_VERDICT, |data| {
        let data = data.be32(VERDICT_CODE, verdict.code() as u32);
        match verdict.chain() {
            Some(chain) => data.text(VERDICT_CHAIN, chain),
            None => data,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{attribute, attributes};

    /// Names and data of a rule's expressions.
    fn expressions(rule: &Rule) -> Vec<(String, Vec<u8>)> {
        attributes(rule.expressions())
            .map(|(_, e)| {
                let name = attribute(e, EXPR_NAME).unwrap();
                (
                    String::from_utf8_lossy(&name[..name.len() - 1]).into_owned(),
                    attribute(e, EXPR_DATA).unwrap().to_vec(),
                )
            })
            .collect()
    }

    fn register(data: &[u8], kind: u16) -> u32 {
        u32::from_be_bytes(attribute(data, kind).unwrap().try_into().unwrap())
    }

    #[test]
    fn fields_of_a_concatenation_follow_each_other_in_whole_registers() {
        for (family, registers) in [(Family::V4, [8, 9, 10]), (Family::V6, [8, 9, 13])] {
            let rule = Rule::default().vmap(&[Field::L4Proto, Field::Daddr(family), Field::Dport], "services");
            let found = expressions(&rule);
            let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["meta", "payload", "payload", "lookup"]);
            for (expression, wanted) in found.iter().zip(registers) {
                assert_eq!(register(&expression.1, 1), wanted);
            }
            assert_eq!(register(&found[3].1, 3), VERDICT);
        }
    }

    #[test]
    fn a_translation_takes_the_port_from_behind_the_address() {
        let found = expressions(&Rule::default().dnat_to("fd00::1".parse().unwrap(), 80));
        assert_eq!(found[2].0, "nat");
        assert_eq!(register(&found[2].1, 2), 10);
        assert_eq!((register(&found[2].1, 3), register(&found[2].1, 5)), (8, 12));
        assert_eq!(attribute(attribute(&found[1].1, 2).unwrap(), 1).unwrap(), [0, 80]);
    }

    #[test]
    fn a_range_is_compared_under_its_mask() {
        let rule = Rule::default().within(Field::Saddr(Family::V4), "10.42.0.0/16".parse().unwrap(), false);
        let found = expressions(&rule);
        assert_eq!(attribute(attribute(&found[1].1, 4).unwrap(), 1).unwrap(), [255, 255, 0, 0]);
        assert_eq!(register(&found[2].1, 2), CMP_NEQ);
        assert_eq!(attribute(attribute(&found[2].1, 3).unwrap(), 1).unwrap(), [10, 42, 0, 0]);
    }
}
