//! What one run of `openssl s_time` said. Pure.

use anyhow::{Context, Result, ensure};

use crate::load::{Load, SocketErrors};

/// Reads how many connections it made; it ends with an error at the first that fails.
pub fn parse(output: &str) -> Result<Load> {
    let load = parse_lines(output).with_context(|| format!("s_time did not report a whole run: {}", output.trim()))?;
    ensure!(load.count > 0, "s_time made no connection at all: {}", output.trim());
    Ok(load)
}

/// `2713 connections in 4 real seconds, 0 bytes read per connection`: it takes the seconds after the whole ones.
fn parse_lines(output: &str) -> Option<Load> {
    let line = output.lines().find(|line| line.contains(" real seconds"))?;
    let (count, rest) = line.split_once(" connections in ")?;
    let seconds: f64 = rest.split_once(" real seconds")?.0.trim().parse().ok()?;
    let count: u64 = count.trim().parse().ok()?;
    Some(Load {
        count,
        per_second: count as f64 / seconds,
        latency: None,
        non_2xx: 0,
        socket_errors: SocketErrors::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "Collecting connection statistics for 3 seconds
***ttttttt

2713 connections in 1.28s; 2119.53 connections/user sec, bytes read 0
2713 connections in 4 real seconds, 0 bytes read per connection
";

    #[test]
    fn reads_a_clean_run() {
        let load = parse(CLEAN).unwrap();
        assert_eq!((load.count, load.per_second), (2_713, 678.25));
    }

    #[test]
    fn refuses_a_run_that_did_not_happen() {
        for output in ["", "connect: Connection refused", &CLEAN.replace("2713", "0")] {
            assert!(parse(output).is_err(), "{output}");
        }
    }
}
