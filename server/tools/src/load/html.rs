//! The report as one page, without script, style sheet or image in another file.

use super::plot;
use super::report::LoadReport;
use super::text;
use super::units::{bytes, change};
use std::fmt::Write;
use transom_plot::{escape, grouped};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#667085;--rule:#e4e7ec;--paper:#fff;--well:#2f855a;--bad:#c53030}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa4b2;--rule:#2c3440;--paper:#12161c;--well:#68d391;--bad:#fc8181}}\
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--paper);color:var(--ink);font:16px/1.45 system-ui,sans-serif}\
h1{font-size:1.35rem;margin:.3rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .5rem}\
.verdict{border-left:.4rem solid var(--well);padding:.4rem .8rem;margin:.8rem 0}.verdict.bad{border-color:var(--bad)}\
.verdict ul{margin:.3rem 0;padding-left:1.2rem}.soft{color:var(--soft);overflow-wrap:anywhere}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}\
th:first-child,td:first-child{text-align:left;padding-left:0}td.long{text-align:left;white-space:normal}\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}\
figure{margin:0}figcaption{font-weight:600;margin:.2rem 0}svg.plot{width:100%;height:auto;display:block}";

/// The page.
pub fn page(report: &LoadReport) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>transom load: {0}</title><style>{STYLE}{1}</style></head><body>\n<h1>transom load</h1>\n",
        escape(&report.server.target),
        transom_plot::STYLE
    );
    let server = &report.server;
    let command = server
        .command
        .as_ref()
        .map_or_else(|| server.target.clone(), |words| words.join(" "));
    let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&command));
    verdict(report, &mut out);
    figures(report, &mut out);
    ordinary(report, &mut out);
    memory(report, &mut out);
    details(report, &mut out);
    let _ = writeln!(
        out,
        "<p class=\"soft\">transom {}. Latencies count from when a request was due, so that a server that stops is late for all \
         of them.</p></body></html>",
        escape(report.version)
    );
    out
}

fn verdict(report: &LoadReport, out: &mut String) {
    if report.fine {
        let _ = writeln!(
            out,
            "<p class=\"verdict\">{}</p>",
            escape(&text::verdict(report))
        );
        return;
    }
    out.push_str("<div class=\"verdict bad\">Not well:<ul>");
    for wrong in &report.wrong {
        let _ = write!(out, "<li>{}</li>", escape(wrong));
    }
    out.push_str("</ul></div>\n");
}

fn figures(report: &LoadReport, out: &mut String) {
    out.push_str("<div class=\"figures\">\n");
    for figure in plot::figures(report) {
        let _ = writeln!(
            out,
            "<figure><figcaption>{}</figcaption>{}</figure>",
            figure.title, figure.svg
        );
    }
    out.push_str("</div>\n");
}

fn ordinary(report: &LoadReport, out: &mut String) {
    out.push_str("<h2>Ordinary requests</h2>\n<div class=\"wide\"><table><tr><th></th>");
    for column in text::COLUMNS {
        let _ = write!(out, "<th>{column}</th>");
    }
    out.push_str("</tr>\n");
    for (heading, cells) in text::rows(report) {
        let _ = write!(out, "<tr><td>{heading}</td>");
        for cell in cells {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

fn memory(report: &LoadReport, out: &mut String) {
    let Some(memory) = &report.memory else {
        return;
    };
    let (ready, warm, most, end) = (
        &memory.at_ready,
        &memory.after_warm_up,
        &memory.most_measured,
        &memory.at_end,
    );
    let bound = memory.bound_bytes.map_or("none known".to_owned(), bytes);
    let _ = writeln!(
        out,
        "<h2>Memory</h2>\n<p>Bound: {bound}. Largest seen: {}. Growth after the warm-up: {}.</p>\n<div class=\"wide\"><table>\
         <tr><th></th><th>ready</th><th>warm</th><th>largest after</th><th>end</th></tr>",
        bytes(memory.most.rss_bytes),
        change(warm.rss_bytes, most.rss_bytes)
    );
    let mut row = |name: &str, values: [String; 4]| {
        let _ = write!(out, "<tr><td>{name}</td>");
        for value in values {
            let _ = write!(out, "<td>{value}</td>");
        }
        out.push_str("</tr>\n");
    };
    let all = [ready, warm, most, end];
    row("RSS", all.map(|memory| bytes(memory.rss_bytes)));
    row("PSS", all.map(|memory| bytes(memory.pss_bytes)));
    row("VmHWM", all.map(|memory| bytes(memory.high_water_bytes)));
    row("mappings", all.map(|memory| grouped(memory.mappings)));
    row("threads", all.map(|memory| grouped(memory.threads)));
    row("descriptors", all.map(|memory| grouped(memory.descriptors)));
    row(
        "page faults",
        all.map(|memory| grouped(memory.minor_faults)),
    );
    row(
        "page faults from disk",
        all.map(|memory| grouped(memory.major_faults)),
    );
    out.push_str("</table></div>\n");
}

fn details(report: &LoadReport, out: &mut String) {
    out.push_str("<h2>Details</h2>\n<div class=\"wide\"><table>\n");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(
            out,
            "<tr><td>{name}</td><td class=\"long\">{}</td></tr>",
            escape(&value)
        );
    };
    row("load", text::load(report));
    for (name, text) in text::details(report) {
        row(name, text);
    }
    out.push_str("</table></div>\n");
}
