//! Bars, one below the other, as SVG that reads on light and dark ground.

use std::fmt::Write;

/// One bar.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// What stands behind it.
    pub(crate) text: String,
}

/// A chart of these, ours in a colour of their own.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = TOP + ROW * bars.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\" aria-label=\"{title}\">\n\
         <style>text {{ fill: #24292f }} .o {{ fill: #c2410c }} .p {{ fill: #94a3b8 }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .o {{ fill: #fb923c }} .p {{ fill: #64748b }} }}</style>\n\
         <text x=\"0\" y=\"18\" font-size=\"15\" font-weight=\"600\">{title}</text>\n"
    );
    for (row, Bar { label, value, text }) in bars.iter().enumerate() {
        let (top, base) = (TOP + ROW * row, TOP + ROW * row + 15);
        let width = (value / most * BARS as f64).max(1.0);
        let class = if label.starts_with("outbound") { "o" } else { "p" };
        let end = LABELS as f64 + width + 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\
             <text x=\"{end:.1}\" y=\"{base}\">{text}</text>",
            LABELS - 8,
            top + 2,
        );
    }
    svg + "</svg>\n"
}

const WIDTH: usize = 860;
const LABELS: usize = 320;
const BARS: usize = 420;
const TOP: usize = 34;
const ROW: usize = 24;
