//! The whole proxy, tested from outside: one module a subject, tables of exact bytes where there are cases.

mod battery;
mod bodies;
mod bundled;
mod check;
mod contract;
mod deadlines;
mod drain;
mod endurance;
mod faults;
mod filters;
mod generations;
mod guests;
mod harness;
mod hops;
mod hostile;
mod identity;
mod origin;
mod records;
mod reload;
mod reports;
mod requests;
mod routing;
mod support;
mod tidy;
mod toolbox;
mod watching;
