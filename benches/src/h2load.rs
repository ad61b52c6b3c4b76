//! What one run of the load generator h2load said. Pure.

use anyhow::{Context, Result, ensure};

use crate::load::{Load, SocketErrors};

/// Reads the summary of a timed run. It has no percentiles.
pub fn parse(output: &str) -> Result<Load> {
    let load = parse_lines(output).with_context(|| format!("h2load did not report a whole run: {}", output.trim()))?;
    ensure!(load.count > 0, "h2load completed no request at all: {}", output.trim());
    Ok(load)
}

fn parse_lines(output: &str) -> Option<Load> {
    let after = |label: &str| output.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let (requests, statuses) = (after("requests:")?, after("status codes:")?);
    let (_, rate) = after("finished in")?.split_once(", ")?;
    Some(Load {
        count: count(requests, "succeeded")?,
        per_second: rate.split_once(" req/s")?.0.trim().parse().ok()?,
        latency: None,
        non_2xx: count(statuses, "3xx")? + count(statuses, "4xx")? + count(statuses, "5xx")?,
        socket_errors: SocketErrors {
            connect: 0,
            // One that errored is among the failed.
            read: count(requests, "failed")?,
            write: 0,
            timeout: count(requests, "timeout")?,
        },
    })
}

/// `12 succeeded, 3 failed`
fn count(text: &str, kind: &str) -> Option<u64> {
    text.split(',')
        .find_map(|part| part.trim().strip_suffix(kind)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "Application protocol: h2

finished in 6.01s, 28891.50 req/s, 1.63MB/s
requests: 173349 total, 173989 started, 173349 done, 173349 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 173990 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 9.80MB (10278720) total, 2.20MB (2310760) headers (space savings 92.47%), 5.29MB (5546880) data
                     min         max         mean         sd        +/- sd
time for request:     1.80ms     42.10ms     21.98ms      2.90ms    86.14%
";

    #[test]
    fn reads_a_clean_run() {
        let expected = Load {
            count: 173_349,
            per_second: 28_891.5,
            latency: None,
            non_2xx: 0,
            socket_errors: SocketErrors::default(),
        };
        assert_eq!(parse(CLEAN).unwrap(), expected);
    }

    #[test]
    fn counts_what_failed() {
        let output = CLEAN
            .replace("0 failed, 0 errored, 0 timeout", "7 failed, 5 errored, 2 timeout")
            .replace("0 4xx, 0 5xx", "3 4xx, 4 5xx");
        let load = parse(&output).unwrap();
        assert_eq!(
            (load.non_2xx, load.socket_errors.read, load.socket_errors.timeout),
            (7, 7, 2)
        );
    }

    #[test]
    fn refuses_a_run_that_did_not_happen() {
        let silent = CLEAN.replace("173349 succeeded", "0 succeeded");
        for output in ["", "starting benchmark...", CLEAN.split_at(120).0, &silent] {
            assert!(parse(output).is_err(), "{output}");
        }
    }
}
