//! A report as text: columns for a terminal, or a Markdown table for the README. Pure.
//!
//! Invariant: both end with date, machine and versions, because a figure without them means nothing.

use std::fmt::Write;

use crate::report::{Report, Row};

pub fn plain(report: &Report) -> String {
    let lines = cells(report);
    let mut widths = HEADINGS.map(str::len);
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = plain_line(&widths, &HEADINGS.map(str::to_owned));
    lines.iter().for_each(|line| text.push_str(&plain_line(&widths, line)));
    text.push('\n');
    for sentence in sentences(report) {
        let _ = writeln!(text, "{sentence}");
    }
    text
}

pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "| {} |\n|---|{}\n",
        HEADINGS.join(" | "),
        "---:|".repeat(HEADINGS.len() - 1)
    );
    for line in cells(report) {
        let _ = writeln!(text, "| {} |", line.join(" | "));
    }
    for sentence in sentences(report) {
        let _ = write!(text, "\n{sentence}\n");
    }
    text
}

const HEADINGS: [&str; 9] = [
    "proxy",
    "CPU us/request",
    "ratio",
    "requests/s",
    "p50",
    "p99",
    "non-2xx",
    "RSS MiB",
    "CPU us/request by round",
];

fn cells(report: &Report) -> Vec<[String; HEADINGS.len()]> {
    report.rows.iter().map(row_cells).collect()
}

fn row_cells(row: &Row) -> [String; HEADINGS.len()] {
    let by_round: Vec<String> = row
        .rounds
        .iter()
        .map(|round| format!("{:.1}", round.cpu_us_per_request))
        .collect();
    [
        row.name.clone(),
        format!("{:.2}", row.cpu_us_per_request),
        row.ratio.map_or("none".to_owned(), |ratio| format!("{ratio:.2}")),
        format!("{:.0}", row.requests_per_second),
        latency(row.p50_us),
        latency(row.p99_us),
        row.non_2xx.to_string(),
        format!("{:.0}", row.rss_mib),
        by_round.join(" "),
    ]
}

/// The first column is a name and flush left, the others are figures and flush right.
fn plain_line(widths: &[usize; HEADINGS.len()], line: &[String; HEADINGS.len()]) -> String {
    let figures = widths
        .iter()
        .zip(line)
        .skip(1)
        .map(|(width, cell)| format!("  {cell:>width$}"))
        .collect::<String>();
    format!("{:width$}{figures}\n", line[0], width = widths[0])
}

fn latency(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// What a reader must know besides the columns: failures first, then method, then place and time.
fn sentences(report: &Report) -> Vec<String> {
    let failed = report.rows.iter().filter(|row| !row.is_clean()).map(failure);
    failed.chain([method(report), place_and_time(report)]).collect()
}

fn failure(row: &Row) -> String {
    let errors = row.socket_errors;
    format!(
        "FAILED: {}: {} responses were not 2xx; socket errors: {} connect, {} read, {} write, {} timeout. Its figures \
         are void.",
        row.name, row.non_2xx, errors.connect, errors.read, errors.write, errors.timeout
    )
}

fn method(report: &Report) -> String {
    let settings = &report.settings;
    format!(
        "Medians over {} rounds of {} s; CPU is user and system time of the proxy's processes; ratio is CPU per \
         request against {}; path {}, {} connections; proxies take turns on core {}, origin and load generator share core {}.",
        settings.rounds,
        settings.seconds,
        report.rows.first().map_or("nobody", |row| row.name.as_str()),
        settings.path,
        settings.connections,
        settings.proxy_core,
        settings.load_core,
    )
}

fn place_and_time(report: &Report) -> String {
    let machine = &report.machine;
    let versions: Vec<String> = report
        .versions
        .iter()
        .map(|found| format!("{} {}", found.program, found.version))
        .collect();
    format!(
        "Measured on {} on {} ({} cores), Linux {}; {}.",
        machine.date,
        machine.cpu_model,
        machine.cores,
        machine.kernel,
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report_of;

    const PLACE: &str = "Measured on 2026-02-03 on Example CPU (2 cores), Linux 6.1.0; HAProxy 2.6.12.\n";

    #[test]
    fn plain_columns_line_up_and_end_with_place_and_time() {
        let text = plain(&report_of(&[("haproxy", 16.0, 0), ("tamis-wasm3", 100.0, 0)]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "proxy        CPU us/request  ratio  requests/s     p50      p99  non-2xx  RSS MiB  CPU us/request by round"
        );
        assert_eq!(
            lines[1],
            "haproxy               16.00   1.00       62500  945 us  2.43 ms        0       12                     16.0"
        );
        assert_eq!(
            lines[2],
            "tamis-wasm3          100.00   6.25       10000  945 us  2.43 ms        0       12                    100.0"
        );
        assert!(text.ends_with(PLACE), "{text}");
    }

    #[test]
    fn markdown_is_a_table_that_ends_with_place_and_time() {
        let text = markdown(&report_of(&[("haproxy", 16.0, 0), ("tamis", 12.0, 0)]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        assert_eq!(
            lines[3],
            "| tamis | 12.00 | 0.75 | 83333 | 945 us | 2.43 ms | 0 | 12 | 12.0 |"
        );
        assert_eq!(lines[4], "");
        assert!(lines[5].contains("against haproxy; path /, 64 connections"), "{text}");
        assert!(text.ends_with(PLACE), "{text}");
    }

    #[test]
    fn a_failed_row_has_no_ratio_and_says_so() {
        for print in [plain, markdown] {
            let text = print(&report_of(&[("haproxy", 16.0, 0), ("tamis", 12.0, 9)]));
            assert!(text.contains("FAILED: tamis: 9 responses were not 2xx"), "{text}");
            assert!(text.contains("none") && !text.contains("0.75"), "{text}");
        }
    }

    #[test]
    fn latencies_have_a_unit_that_fits() {
        assert_eq!(
            [945.4, 2_430.0, 1_200_000.0].map(latency),
            ["945 us", "2.43 ms", "1.20 s"]
        );
    }
}
