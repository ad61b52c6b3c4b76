//! `tamis filter test`: every case of a file through a filter, and a report.
//!
//! Control plane. Each case links the component anew, so that nothing is left of the case before it.

use std::cell::RefCell;
use std::path::Path;

use tokio::sync::mpsc;

use super::cases::{Call, Case, Cases};
use super::difference::differences;
use super::log::Lines;
use super::stand::{self, Room, Stand};
use super::walk::{self, Ending, Fault, Seen};
use crate::filter::{Admission, Failure, Hook};
use crate::head::Attributes;
use crate::outbound::{Desk, Failed, Placed};
use crate::wasm;

/// Prints a line for each case. Fails when a case does.
pub fn run(file: &Path, cases: &Path) -> Result<(), String> {
    let Cases { limits, cases: list } = Cases::read(cases)?;
    let in_cases = |error: String| format!("{}: {error}", cases.display());
    let stand = Stand::set_up(file, Room::AsConfigured(limits)).map_err(|error| match error.starts_with("limits") {
        true => in_cases(error),
        false => error,
    })?;
    let runtime = stand::runtime()?;
    let log = Lines::default();
    let mut failed = 0;
    for case in &list {
        log.take();
        let tried = log.catch(|| runtime.block_on(try_case(&stand, case, &log)));
        let found = tried.map_err(|error| format!("{}: {error}", file.display()))?;
        match found.is_empty() {
            true => crate::tell_line!("ok      {}", case.name),
            false => {
                failed += 1;
                crate::tell_line!("FAILED  {} ({})", case.name, case.place);
                found.iter().for_each(|line| crate::tell_line!("          {line}"));
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} cases failed", list.len())),
    }
}

/// The differences. An error is one of the component, which no case can say anything about.
async fn try_case(stand: &Stand, case: &Case, log: &Lines) -> Result<Vec<String>, String> {
    let mut clusters: Vec<String> = case.calls.iter().map(|call| call.cluster.clone()).collect();
    clusters.dedup();
    let filter = stand.link(&case.config, &clusters)?;
    let (desk, orders) = Desk::new();
    let telephone = Telephone {
        expected: RefCell::new(case.calls.clone()),
        surprises: RefCell::default(),
    };
    let seen = tokio::select! {
        seen = repeat(stand, &filter, &desk, case) => seen,
        () = telephone.serve(orders) => return Err("the desk for outbound calls has closed".to_owned()),
    };
    let said = log.take();
    let mut found = differences(&case.expect, &seen, &said);
    let fault_is_expected = case.expect.verdict.is_some_and(|verdict| verdict.as_str() == "failure");
    if let Some(fault) = seen.fault
        && !fault_is_expected
    {
        // More of why than the way to the instruction that it failed in.
        found.extend(said.iter().map(|line| format!("the filter said {line}")));
        let (hook, failure) = (fault.hook.as_str(), fault.failure.as_str());
        found.push(format!("the filter failed in {hook} ({failure}): {}", fault.detail));
    }
    found.extend(telephone.findings());
    Ok(found)
}

async fn repeat(stand: &Stand, filter: &wasm::Filter, desk: &Desk, case: &Case) -> Seen {
    let mut instance = match stand.start(filter, desk).await {
        Ok(instance) => instance,
        Err(error) => return Seen::without(Ending::Failed, Some(not_started(&error))),
    };
    let mut attributes = Attributes::default();
    if filter.hooks().has(Hook::Connection) {
        // Connections have instances of their own.
        let admitted = match stand.start(filter, desk).await {
            Ok(mut apart) => walk::admit(filter, &mut apart, &case.script).await,
            Err(error) => Err(not_started(&error)),
        };
        match admitted {
            Ok((Admission::Accept, set)) => attributes = set,
            Ok((Admission::Refuse, _)) => return Seen::without(Ending::ConnectionRefused, None),
            Err(fault) => return Seen::without(Ending::Failed, Some(fault)),
        }
    }
    let mut seen = walk::exchange(filter, &mut instance, &case.script, attributes.clone()).await;
    for _ in 1..case.repeat {
        if seen.fault.is_some() {
            break;
        }
        seen = walk::exchange(filter, &mut instance, &case.script, attributes.clone()).await;
    }
    seen
}

fn not_started(error: &wasm::StartError) -> Fault {
    Fault {
        hook: Hook::RequestHead,
        failure: Failure::Start,
        detail: error.to_string(),
    }
}

/// Answers a filter's outbound calls as a case says.
struct Telephone {
    expected: RefCell<Vec<Call>>,
    surprises: RefCell<Vec<String>>,
}

impl Telephone {
    async fn serve(&self, mut orders: mpsc::UnboundedReceiver<Placed>) {
        while let Some(placed) = orders.recv().await {
            let answer = self.answer(&placed);
            placed.answer(answer);
        }
    }

    fn answer(&self, placed: &Placed) -> Result<crate::outbound::Given, Failed> {
        let order = placed.order();
        let mut expected = self.expected.borrow_mut();
        let fits = |call: &Call| {
            let method = call
                .method
                .as_deref()
                .is_none_or(|method| method == order.method.as_str());
            let target = call
                .target
                .as_deref()
                .is_none_or(|target| target == order.target.as_str());
            call.cluster == order.cluster.name() && method && target
        };
        match expected.iter().position(fits) {
            Some(index) => expected.remove(index).answer,
            None => {
                let (method, target) = (&order.method, order.target.as_str());
                let cluster = order.cluster.name();
                let surprise = format!("calls: none fits {method} {target} to `{cluster}`, or it was made already");
                self.surprises.borrow_mut().push(surprise);
                Err(Failed::Unreachable)
            }
        }
    }

    fn findings(self) -> Vec<String> {
        let mut findings = self.surprises.into_inner();
        let missing = |call: &Call| format!("calls: one to `{}` was not made", call.cluster);
        findings.extend(self.expected.borrow().iter().map(missing));
        findings
    }
}
