//! Questions about the cluster's own names, answered from the index without waiting for anything.

use super::index::{Answer, Index, ours};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use std::net::IpAddr;
use std::str::FromStr;

/// Seconds for which an answer may be kept, as upstream's.
const TTL: u32 = 5;
/// How many aliases are followed.
const ALIASES: usize = 8;

/// The zone that is answered for.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Such as `cluster.local`.
    pub domain: String,
    /// The server's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The service and pod ranges, whose reverse names are answered here too.
    pub ranges: Vec<IpNet>,
}

/// The parts of a reply.
#[derive(Debug, Default)]
pub struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
    /// The answer ends in a name that others must be asked for.
    pub follow: Option<Name>,
}

impl Zone {
    /// The reply to a question about this zone; none if it is about another.
    pub fn reply(&self, index: &Index, name: &Name, kind: RecordType) -> Option<Reply> {
        self.reply_through(index, name, kind, ALIASES)
    }

    fn reply_through(&self, index: &Index, name: &Name, kind: RecordType, aliases: usize) -> Option<Reply> {
        let text = name.to_ascii().to_lowercase();
        let text = text.trim_end_matches('.');
        if let Some(address) = reverse(name) {
            return self.pointers(index, name, address, kind);
        }
        let before = match text.strip_suffix(self.domain.as_str())? {
            "" => "",
            before => before.strip_suffix('.')?,
        };
        let labels: Vec<&str> = if before.is_empty() { Vec::new() } else { before.split('.').collect() };
        let mut reply = Reply::default();
        let answer = index.lookup(&labels, &self.addresses);
        self.fill(&mut reply, name, kind, answer);
        self.follow(&mut reply, index, kind, aliases);
        if labels.is_empty() {
            match kind {
                RecordType::SOA => reply.answers.extend(self.soa()),
                RecordType::NS => reply.answers.extend(self.name_server(name)),
                _ => {}
            }
        }
        Some(self.closed(reply))
    }

    fn fill(&self, reply: &mut Reply, name: &Name, kind: RecordType, answer: Answer) {
        let Reply { answers, additionals, .. } = reply;
        let any = kind == RecordType::ANY;
        let mut srv = |answers: &mut Vec<Record>, services: Vec<(u16, String)>, targets: Vec<(String, IpAddr)>| {
            if kind != RecordType::SRV && !any {
                return;
            }
            // Weights share 100 among the targets, as CoreDNS does.
            let weight = 100u16.checked_div(services.len() as u16).unwrap_or(0).max(1);
            for (port, target) in services {
                let target = self.absolute(&target);
                answers.extend(target.map(|target| record(name, RData::SRV(SRV::new(0, weight, port, target)))));
            }
            for (target, address) in targets {
                additionals.extend(self.absolute(&target).map(|target| record(&target, address_data(address))));
            }
        };
        match answer {
            Answer::Nothing => reply.code = ResponseCode::NXDomain,
            Answer::Addresses(addresses) => answers.extend(of_kind(name, kind, &addresses)),
            Answer::Services(services, targets) => srv(answers, services, targets),
            Answer::Both(addresses, services, targets) => {
                answers.extend(of_kind(name, kind, &addresses));
                srv(answers, services, targets);
            }
            Answer::Text(text) if kind == RecordType::TXT || any => {
                answers.push(record(name, RData::TXT(TXT::new(vec![text.to_owned()]))));
            }
            Answer::Text(_) => {}
            Answer::Alias(target) => {
                let target = Name::from_str(&format!("{target}."));
                answers.extend(target.map(|target| record(name, RData::CNAME(CNAME(target)))));
            }
        }
    }

    /// An alias is followed as far as this zone knows; the last name of others is left to the caller.
    fn follow(&self, reply: &mut Reply, index: &Index, kind: RecordType, aliases: usize) {
        let Some(RData::CNAME(CNAME(target))) = reply.answers.last().map(|record| record.data.clone()) else { return };
        if kind == RecordType::CNAME || aliases == 0 {
            return;
        }
        match self.reply_through(index, &target, kind, aliases - 1) {
            Some(next) => {
                reply.answers.extend(next.answers);
                // A circle says the same again and again.
                reply.answers.dedup();
                reply.follow = next.follow;
            }
            None => reply.follow = Some(target),
        }
    }

    fn pointers(&self, index: &Index, name: &Name, address: IpAddr, kind: RecordType) -> Option<Reply> {
        let names = index.names(address);
        if names.is_empty() && !ours(&self.ranges, address) {
            return None;
        }
        let mut reply = Reply::default();
        if names.is_empty() {
            reply.code = ResponseCode::NXDomain;
        }
        if kind == RecordType::PTR {
            let targets = names.iter().filter_map(|target| self.absolute(target));
            reply.answers.extend(targets.map(|target| record(name, RData::PTR(PTR(target)))));
        }
        Some(self.closed(reply))
    }

    /// An answer without records says by the SOA that this is all there is.
    fn closed(&self, mut reply: Reply) -> Reply {
        if reply.answers.is_empty() {
            reply.authorities.extend(self.soa());
        }
        reply
    }

    fn soa(&self) -> Option<Record> {
        let (server, admin) = (self.absolute("ns.dns")?, self.absolute("hostmaster")?);
        let domain = Name::from_str(&format!("{}.", self.domain)).ok()?;
        // The zone is never transferred, so the serial number says nothing and stays.
        Some(record(&domain, RData::SOA(SOA::new(server, admin, 1, 7200, 1800, 86400, TTL))))
    }

    fn name_server(&self, name: &Name) -> Option<Record> {
        Some(record(name, RData::NS(NS(self.absolute("ns.dns")?))))
    }

    fn absolute(&self, relative: &str) -> Option<Name> {
        Name::from_str(&format!("{relative}.{}.", self.domain)).ok()
    }
}

fn reverse(name: &Name) -> Option<IpAddr> {
    let range = name.parse_arpa_name().ok()?;
    (range.prefix_len() == range.max_prefix_len()).then_some(range.addr())
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn of_kind(name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    let records = addresses.iter().map(|address| record(name, address_data(*address)));
    records.filter(|record| kind == RecordType::ANY || record.record_type() == kind).collect()
}
