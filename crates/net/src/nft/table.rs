//! A table as a value, and the difference between two tables as the messages of one transaction.

use super::rule::{Rule, verdict_data};
use super::{Family, octets};
use crate::netlink::Message;
use std::collections::BTreeMap;
use std::net::IpAddr;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Elements a message: a list of them must stay below 64 KiB.
const CHUNK: usize = 256;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Jump(String),
    Goto(String),
}

impl Verdict {
    pub(super) fn code(&self) -> i32 {
        match self {
            Verdict::Drop => libc::NF_DROP,
            Verdict::Jump(_) => -3,
            Verdict::Goto(_) => -4,
        }
    }

    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            Verdict::Drop => None,
        }
    }
}

/// Where in a packet's way a chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// `libc::NF_INET_*`
    pub hook: i32,
    pub priority: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

impl Chain {
    pub fn of(rules: impl IntoIterator<Item = Rule>) -> Chain {
        Chain { hook: None, rules: rules.into_iter().collect() }
    }
}

/// The types of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Index,
    Address(Family),
    Proto,
    Port,
}

impl Type {
    /// As the `nft` program numbers it, so that it can show the table.
    fn number(self) -> u32 {
        match self {
            Type::Index => 4,
            Type::Address(Family::V4) => 7,
            Type::Address(Family::V6) => 8,
            Type::Proto => 12,
            Type::Port => 13,
        }
    }

    /// Bytes in a register, padded to whole ones.
    fn width(self) -> u32 {
        match self {
            Type::Address(family) => family.width() as u32,
            _ => 4,
        }
    }
}

fn concatenation(types: &[Type]) -> (u32, u32) {
    types.iter().fold((0, 0), |(number, width), part| (number << 6 | part.number(), width + part.width()))
}

/// What a set's elements lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Set,
    Verdicts,
    Values(Vec<Type>),
    /// Values that the packets' path adds, each for so many milliseconds.
    Learned(Vec<Type>, u64),
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    Member,
    Verdict(Verdict),
    Value(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub key: Vec<Type>,
    pub kind: Kind,
    pub elements: BTreeMap<Vec<u8>, Data>,
}

impl Set {
    pub fn new(key: impl Into<Vec<Type>>, kind: Kind) -> Set {
        Set { key: key.into(), kind, elements: BTreeMap::new() }
    }
}

/// The bytes of a concatenated key or value, each part padded to whole registers.
pub mod key {
    use super::{IpAddr, octets};

    pub fn proto_address_port(proto: u8, address: IpAddr, port: u16) -> Vec<u8> {
        [&[proto, 0, 0, 0][..], &address_port(address, port)].concat()
    }

    pub fn proto_port(proto: u8, port: u16) -> Vec<u8> {
        [&[proto, 0, 0, 0][..], &port.to_be_bytes(), &[0, 0]].concat()
    }

    pub fn address_port(address: IpAddr, port: u16) -> Vec<u8> {
        [&octets(address)[..], &port.to_be_bytes(), &[0, 0]].concat()
    }

    pub fn pair(source: IpAddr, destination: IpAddr) -> Vec<u8> {
        [octets(source), octets(destination)].concat()
    }

    pub fn index(index: u32) -> Vec<u8> {
        index.to_ne_bytes().to_vec()
    }
}

/// A whole table of the family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
}

impl Table {
    pub fn new(name: &str) -> Table {
        Table { name: name.to_owned(), chains: BTreeMap::new(), sets: BTreeMap::new() }
    }

    /// The transaction that leaves no such table, whether there is one or not.
    pub fn removal(name: &str) -> Vec<Message> {
        vec![message(NEW_TABLE, libc::NLM_F_CREATE).text(1, name), message(DELETE_TABLE, 0).text(1, name)]
    }

    /// The transaction that leaves exactly this table, whatever stood there before.
    pub fn replacement(&self) -> Vec<Message> {
        let mut messages = Table::removal(&self.name);
        messages.push(message(NEW_TABLE, libc::NLM_F_CREATE).text(1, &self.name));
        messages.extend(self.change_from(&Table::new(&self.name)).unwrap_or_default());
        messages
    }

    /// The transaction that turns `old` into this table; `None` where only a replacement can.
    ///
    /// The order lets everything be referred to only while it exists: chains and sets are made first, then rules that change
    /// and elements that go are removed, then sets and chains that go, and last rules and elements are added.
    pub fn change_from(&self, old: &Table) -> Option<Vec<Message>> {
        let mut change = Change { table: &self.name, messages: Vec::new() };
        for (name, chain) in &self.chains {
            match old.chains.get(name) {
                Some(was) if was.hook != chain.hook => return None,
                Some(_) => {}
                None => change.new_chain(name, chain.hook),
            }
        }
        for (name, set) in &self.sets {
            match old.sets.get(name) {
                Some(was) if (&was.key, &was.kind) != (&set.key, &set.kind) => return None,
                Some(_) => {}
                None => change.new_set(name, set),
            }
        }
        for (name, was) in &old.chains {
            if !was.rules.is_empty() && self.chains.get(name).is_none_or(|chain| chain.rules != was.rules) {
                change.name_only(DELETE_RULE, name);
            }
        }
        for (name, was) in &old.sets {
            match self.sets.get(name) {
                Some(set) => change.elements(DELETE_ELEMENTS, name, beyond(was, Some(set))),
                None => change.name_only(DELETE_SET, name),
            }
        }
        for name in old.chains.keys().filter(|name| !self.chains.contains_key(*name)) {
            change.name_only(DELETE_CHAIN, name);
        }
        for (name, chain) in &self.chains {
            if old.chains.get(name).is_none_or(|was| was.rules != chain.rules) {
                chain.rules.iter().for_each(|rule| change.new_rule(name, rule));
            }
        }
        for (name, set) in &self.sets {
            change.elements(NEW_ELEMENTS, name, beyond(set, old.sets.get(name)));
        }
        Some(change.messages)
    }
}

/// The elements of one set that another has not, or has otherwise.
fn beyond<'a>(set: &'a Set, other: Option<&Set>) -> Vec<(&'a [u8], &'a Data)> {
    let same = |key: &Vec<u8>, data: &Data| other.and_then(|other| other.elements.get(key)) == Some(data);
    set.elements.iter().filter(|(key, data)| !same(key, data)).map(|(key, data)| (key.as_slice(), data)).collect()
}

fn message(kind: u16, flags: i32) -> Message {
    Message::new(kind, flags, &[libc::NFPROTO_INET as u8, 0, 0, 0])
}

struct Change<'a> {
    table: &'a str,
    messages: Vec<Message>,
}

impl Change<'_> {
    fn new_chain(&mut self, name: &str, hook: Option<Hook>) {
        let chain = message(NEW_CHAIN, libc::NLM_F_CREATE).text(1, self.table).text(3, name);
        self.messages.push(match hook {
            Some(hook) => chain
                .nest(4, |inner| inner.be32(1, hook.hook as u32).be32(2, hook.priority as u32))
                .be32(5, libc::NF_ACCEPT as u32)
                .text(7, hook.kind),
            None => chain,
        });
    }

    fn new_rule(&mut self, chain: &str, rule: &Rule) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        let start = message(NEW_RULE, flags).text(1, self.table).text(2, chain);
        self.messages.push(start.nest(4, |list| list.raw(rule.expressions())));
    }

    fn new_set(&mut self, name: &str, set: &Set) {
        let (key_type, key_width) = concatenation(&set.key);
        let (flags, data, timeout) = match &set.kind {
            Kind::Set => (0, None, None),
            Kind::Verdicts => (SET_MAP, Some((DATA_TYPE_VERDICT, 0)), None),
            Kind::Values(types) => (SET_MAP, Some(concatenation(types)), None),
            Kind::Learned(types, timeout) => {
                (SET_MAP | SET_TIMEOUT | SET_EVAL, Some(concatenation(types)), Some(*timeout))
            }
        };
        let mut made = message(NEW_SET, libc::NLM_F_CREATE).text(1, self.table).text(2, name);
        made = made.be32(3, flags).be32(4, key_type).be32(5, key_width);
        if let Some((data_type, data_width)) = data {
            made = made.be32(6, data_type).be32(7, data_width);
        }
        if let Some(timeout) = timeout {
            made = made.nest(9, |description| description.be32(1, 65_535)).attr(11, timeout.to_be_bytes());
        }
        // The kernel wants a number to tell apart sets that are made in one transaction.
        let id = self.messages.len() as u32 + 1;
        self.messages.push(made.be32(10, id));
    }

    /// Chains are named by the attribute 3, sets and the chain of rules by 2.
    fn name_only(&mut self, kind: u16, name: &str) {
        let attribute = if kind == DELETE_CHAIN { 3 } else { 2 };
        self.messages.push(message(kind, 0).text(1, self.table).text(attribute, name));
    }

    fn elements(&mut self, kind: u16, set: &str, elements: Vec<(&[u8], &Data)>) {
        for chunk in elements.chunks(CHUNK) {
            let start = message(kind, libc::NLM_F_CREATE).text(1, self.table).text(2, set);
            self.messages.push(
                start.nest(3, |list| {
                    chunk.iter().fold(list, |list, (key, data)| list.nest(1, |e| element(e, key, data)))
                }),
            );
        }
    }
}

fn element(element: Message, key: &[u8], data: &Data) -> Message {
    let keyed = element.nest(1, |inner| inner.attr(1, key));
    match data {
        Data::Member => keyed,
        Data::Verdict(verdict) => keyed.nest(2, |inner| verdict_data(inner, verdict)),
        Data::Value(value) => keyed.nest(2, |inner| inner.attr(1, value)),
    }
}
