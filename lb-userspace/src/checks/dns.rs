//! A question to a DNS server, over UDP (RFC 1035).

use std::str::FromStr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use regex::bytes::Regex;

use super::{
    failure,
    socket::refused,
    udp::{LONGEST, connect},
};
use crate::{
    health::{Failure, Pass, Probe},
    model::check::DnsCheck,
};

pub async fn check(probe: &Probe, dns: &DnsCheck) -> Result<Pass, Failure> {
    let question = question(dns)?;
    let bytes = question.to_vec().map_err(|error| Failure { why: format!("the question: {error}") })?;
    let socket = connect(probe)?;
    socket.send(&bytes).await.map_err(|error| failure(&error))?;
    let mut reply = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut reply).await.map_err(|error| refused(&error, probe))?;
        let answer = Message::from_vec(&reply[..length])
            .map_err(|_| Failure { why: format!("the answer ({length} bytes) is not DNS") })?;
        // A late or forged answer to another question is not ours.
        if answer.id() == question.id() && answer.message_type() == MessageType::Response {
            return judge(&question, &answer, dns);
        }
    }
}

fn question(dns: &DnsCheck) -> Result<Message, Failure> {
    let wrong = |what: &str| Failure { why: format!("{what} cannot be asked for") };
    let mut name = Name::from_str(&dns.name).map_err(|_| wrong(&dns.name))?;
    // With or without its last dot, and as it comes back.
    name.set_fqdn(true);
    let kind = RecordType::from_str(&dns.kind).map_err(|_| wrong(&dns.kind))?;
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failure(&error.into()))?;
    let mut message = Message::new();
    message.set_id(u16::from_ne_bytes(id)).set_message_type(MessageType::Query).set_op_code(OpCode::Query);
    message.set_recursion_desired(true).add_query(Query::query(name.to_lowercase(), kind));
    Ok(message)
}

fn judge(question: &Message, answer: &Message, dns: &DnsCheck) -> Result<Pass, Failure> {
    let code = answer.response_code();
    let number = u16::from(code);
    if !dns.rcode.iter().any(|wanted| u16::from(*wanted) == number) {
        return Err(Failure { why: format!("response code {number} ({code})") });
    }
    // Each answer repeats its question (RFC 5452 section 9.1): who does not may mean another's.
    if answer.queries() != question.queries() {
        return Err(Failure { why: "the answer is to another question".to_owned() });
    }
    let found = format!("response code {number}, {} records", answer.answers().len());
    let Some(wanted) = &dns.answer else { return Ok(Pass::new(found)) };
    let wanted = Regex::new(wanted).map_err(|error| Failure { why: format!("`answer`: {error}") })?;
    let matches = |data: String| wanted.is_match(data.as_bytes());
    match answer.answers().iter().any(|record| matches(record.data().to_string())) {
        true => Ok(Pass::new(found)),
        false => Err(Failure { why: format!("{found}, and none matches") }),
    }
}
