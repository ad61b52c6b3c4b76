//! A report as text: columns for a terminal, or a Markdown table for the README. Pure.
//!
//! Invariant: both end with date, machine and versions, because a figure without them means nothing.

use std::fmt::Write;

use crate::load::Latency;
use crate::report::{Report, Row};
use crate::work::Work;

pub fn plain(report: &Report) -> String {
    let lines: Vec<_> = [headings(report)].into_iter().chain(cells(report)).collect();
    let mut widths = [0; COLUMNS];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text: String = lines.iter().map(|line| plain_line(&widths, line)).collect();
    text.push('\n');
    for sentence in sentences(report) {
        let _ = writeln!(text, "{sentence}");
    }
    text
}

pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "| {} |\n|---|{}\n",
        headings(report).join(" | "),
        "---:|".repeat(COLUMNS - 1)
    );
    for line in cells(report) {
        let _ = writeln!(text, "| {} |", line.join(" | "));
    }
    for sentence in sentences(report) {
        let _ = write!(text, "\n{sentence}\n");
    }
    text
}

const COLUMNS: usize = 9;

fn headings(report: &Report) -> [String; COLUMNS] {
    let [cost, rate] = report.settings.work.headings();
    let by_round = format!("{cost} by round");
    let columns = [
        "proxy", cost, "ratio", rate, "p50", "p99", "non-2xx", "RSS MiB", &by_round,
    ];
    columns.map(str::to_owned)
}

fn cells(report: &Report) -> Vec<[String; COLUMNS]> {
    report.rows.iter().map(row_cells).collect()
}

fn row_cells(row: &Row) -> [String; COLUMNS] {
    let by_round: Vec<String> = row.rounds.iter().map(|round| format!("{:.1}", round.cost)).collect();
    let latency = |of: fn(Latency) -> f64| row.latency.map_or("-".to_owned(), |latency| duration(of(latency)));
    [
        row.name.clone(),
        format!("{:.2}", row.cost),
        row.ratio.map_or("none".to_owned(), |ratio| format!("{ratio:.2}")),
        format!("{:.0}", row.per_second),
        latency(|latency| latency.p50_us),
        latency(|latency| latency.p99_us),
        row.non_2xx.to_string(),
        format!("{:.0}", row.rss_mib),
        by_round.join(" "),
    ]
}

/// The first column is a name and flush left, the others are figures and flush right.
fn plain_line(widths: &[usize; COLUMNS], line: &[String; COLUMNS]) -> String {
    let figures = widths
        .iter()
        .zip(line)
        .skip(1)
        .map(|(width, cell)| format!("  {cell:>width$}"))
        .collect::<String>();
    format!("{:width$}{figures}\n", line[0], width = widths[0])
}

fn duration(us: f64) -> String {
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
    let measure = match settings.work {
        Work::Idle => "memory is what the proxy's processes grew by since they were started",
        _ => "CPU is user and system time of the proxy's processes",
    };
    let turns = match settings.work {
        Work::Idle => format!("{} rounds", settings.rounds),
        _ => format!("{} rounds of {} s", settings.rounds, settings.seconds),
    };
    format!(
        "Medians over {turns}; {measure}; ratio is {} against {}; {}; proxies take turns on core {}, origin and load \
         generator share core {}.",
        settings.work.headings()[0],
        report.rows.first().map_or("nobody", |row| row.name.as_str()),
        settings.work.sentence(&settings.path, settings.connections),
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
            [945.4, 2_430.0, 1_200_000.0].map(duration),
            ["945 us", "2.43 ms", "1.20 s"]
        );
    }
}
