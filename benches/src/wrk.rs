//! What one run of the load generator wrk said. Pure.

use anyhow::{Context, Result, ensure};

use crate::load::{Latency, Load, SocketErrors};

/// Reads the output of `wrk --latency`. wrk leaves out the two error lines when there is nothing to count, and counts
/// a status above 399 as not 2xx, whatever its own wording ("Non-2xx or 3xx responses").
pub fn parse(output: &str) -> Result<Load> {
    let load = parse_lines(output).with_context(|| format!("wrk did not report a whole run: {}", output.trim()))?;
    ensure!(load.count > 0, "wrk completed no request at all: {}", output.trim());
    Ok(load)
}

fn parse_lines(output: &str) -> Option<Load> {
    let after = |label: &str| output.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let requests = output.lines().find_map(|line| line.split_once(" requests in "))?.0;
    let non_2xx = after("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.trim().parse().ok())?;
    let socket_errors = after("Socket errors:").map_or(Some(SocketErrors::default()), parse_socket_errors)?;
    Some(Load {
        count: requests.trim().parse().ok()?,
        per_second: after("Requests/sec:")?.trim().parse().ok()?,
        latency: Some(Latency {
            p50_us: after("50%").and_then(parse_time_us)?,
            p99_us: after("99%").and_then(parse_time_us)?,
        }),
        non_2xx,
        socket_errors,
    })
}

/// `connect 0, read 12, write 0, timeout 3`
fn parse_socket_errors(text: &str) -> Option<SocketErrors> {
    let count = |kind| {
        text.split(',')
            .find_map(|part| part.trim().strip_prefix(kind)?.trim().parse::<u64>().ok())
    };
    Some(SocketErrors {
        connect: count("connect")?,
        read: count("read")?,
        write: count("write")?,
        timeout: count("timeout")?,
    })
}

/// A time as wrk prints it (`812.00us`, `1.35ms`, `2.01s`, `1.50m`, `1.00h`), in microseconds.
fn parse_time_us(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit_start = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_start);
    let unit_us = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3_600e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "Running 1s test @ http://127.0.0.1:40001/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.44ms  250.11us   9.40ms   95.50%
    Req/Sec    44.71k     1.20k   46.03k    70.00%
  Latency Distribution
     50%  945.00us
     75%    1.50ms
     90%    1.61ms
     99%    2.43ms
  44512 requests in 1.10s, 8.57MB read
Requests/sec:  40465.45
Transfer/sec:      7.79MB
";

    #[test]
    fn reads_a_clean_run() {
        let load = parse(CLEAN).unwrap();
        let expected = Load {
            count: 44_512,
            per_second: 40_465.45,
            latency: Some(Latency {
                p50_us: 945.0,
                p99_us: 2_430.0,
            }),
            non_2xx: 0,
            socket_errors: SocketErrors::default(),
        };
        assert_eq!(load, expected);
    }

    #[test]
    fn reads_both_kinds_of_error() {
        let errors =
            "  Socket errors: connect 1, read 20, write 3, timeout 400\n  Non-2xx or 3xx responses: 17\nRequests/sec:";
        let load = parse(&CLEAN.replace("Requests/sec:", errors)).unwrap();
        assert_eq!(load.non_2xx, 17);
        assert_eq!(
            load.socket_errors,
            SocketErrors {
                connect: 1,
                read: 20,
                write: 3,
                timeout: 400
            }
        );
        assert_eq!(load.socket_errors.total(), 424);
    }

    #[test]
    fn refuses_a_run_that_did_not_happen() {
        let silent = CLEAN.replace("44512 requests", "0 requests");
        let half_errors = CLEAN.replace("Requests/sec:", "Socket errors: connect 1\nRequests/sec:");
        let refused = "unable to connect to 127.0.0.1:1 Connection refused";
        for output in ["", refused, CLEAN.split_at(300).0, &silent, &half_errors] {
            assert!(parse(output).is_err(), "{output}");
        }
        assert!(format!("{:#}", parse(refused).unwrap_err()).contains("Connection refused"));
    }

    #[test]
    fn knows_every_unit_of_time() {
        let cases = [
            ("812.00us", 812.0),
            ("1.5ms", 1.5e3),
            ("2.50s", 2.5e6),
            ("1.50m", 90e6),
            ("1.00h", 3.6e9),
        ];
        for (text, us) in cases {
            assert_eq!(parse_time_us(text), Some(us), "{text}");
        }
        for text in ["", "12", "12parsec", "us"] {
            assert_eq!(parse_time_us(text), None, "{text}");
        }
    }
}
