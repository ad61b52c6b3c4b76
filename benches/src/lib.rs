//! What the benchmark programs share: the nouns of a side-by-side measurement.
//!
//! A measurement reads in this order: a [`contestant`] is named, its [`program`] is found on the machine, a [`peer`]
//! says how that program is configured and started, a [`service`] is the running process, [`probe`] asks it one
//! question. [`work`] says what it is loaded with; [`wrk`], [`h2load`], [`s_time`] or [`rest`] tells the [`load`] that
//! was applied, [`usage`] what that cost, [`report`] holds the figures, [`table`] prints them and [`check`] judges them.
//! [`machine`] says where and when. A [`visitor`] asks where latency is the question. Nothing in here depends on the proxy: Tamis is measured as a program, from
//! outside, like its peers.

pub mod check;
pub mod contestant;
pub mod h2load;
pub mod load;
pub mod machine;
pub mod peer;
pub mod probe;
pub mod program;
pub mod report;
pub mod rest;
pub mod s_time;
pub mod service;
pub mod table;
pub mod usage;
pub mod visitor;
pub mod work;
pub mod wrk;
