//! Plots of the results, as SVG.

use crate::measure::Row;
use crate::statistics::Spread;
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

type Result = std::result::Result<(), Box<dyn Error>>;

const WIDTH: u32 = 860;
const ROW_HEIGHT: u32 = 26;
const NAMES_WIDTH: i32 = 130;
const FIGURES_WIDTH: i32 = 70;
const TITLE_HEIGHT: i32 = 36;

const INK: RGBColor = RGBColor(40, 40, 40);
const OURS: RGBColor = RGBColor(196, 84, 40);
const OTHERS: RGBColor = RGBColor(150, 165, 180);

/// Colours of lines, ours first; colour-blind readers can tell them apart, too.
const LINES: [RGBColor; 9] = [
    OURS,
    RGBColor(240, 160, 110),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
    RGBColor(160, 130, 0),
    RGBColor(30, 30, 30),
];

/// A bar for each server, as long as the median of its runs, and a dot for each run: the further the dots lie
/// apart, the less the bar says.
pub fn bars(path: &Path, title: &str, rows: &[(String, bool, Vec<f64>)]) -> Result {
    let height = ROW_HEIGHT * u32::try_from(rows.len())? + TITLE_HEIGHT as u32 + 10;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(
        title.to_owned(),
        (10, 10),
        ("sans-serif", 15).into_font().color(&INK),
    ))?;
    let most = rows
        .iter()
        .flat_map(|(_, _, runs)| runs)
        .copied()
        .fold(0.0, f64::max);
    let room = f64::from(WIDTH as i32 - NAMES_WIDTH - FIGURES_WIDTH);
    let at = |figure: f64| NAMES_WIDTH + (figure / most * room) as i32;
    for (number, (name, ours, runs)) in rows.iter().enumerate() {
        let Some(spread) = Spread::of(runs.iter().copied()) else {
            continue;
        };
        let top = TITLE_HEIGHT + (ROW_HEIGHT * u32::try_from(number)?) as i32;
        let middle = top + ROW_HEIGHT as i32 / 2;
        let colour = if *ours { OURS } else { OTHERS };
        area.draw(&Text::new(
            name.clone(),
            (10, middle - 7),
            ("sans-serif", 13).into_font().color(&INK),
        ))?;
        let corners = [
            (NAMES_WIDTH, top + 4),
            (at(spread.median), top + ROW_HEIGHT as i32 - 4),
        ];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        for run in runs {
            area.draw(&Circle::new((at(*run), middle), 3, INK.mix(0.6).filled()))?;
        }
        let figure = Text::new(
            rounded(spread.median),
            (at(spread.max) + 8, middle - 7),
            ("sans-serif", 13).into_font().color(&INK),
        );
        area.draw(&figure)?;
    }
    area.present()?;
    Ok(())
}

/// Memory over time, a line for each server.
pub fn attack(path: &Path, rows: &[Row]) -> Result {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = rows
        .iter()
        .filter_map(|row| {
            let memory = row.attack.as_ref()?.memory.iter();
            Some((
                row.name.as_str(),
                memory
                    .map(|(at, bytes)| (*at, *bytes as f64 / (1 << 20) as f64))
                    .collect(),
            ))
        })
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let (first, last) = points().fold((0.0, 1.0), |(first, last): (f64, f64), (at, _)| {
        (first.min(*at), last.max(*at))
    });
    let most = points().fold(10.0, |most: f64, (_, mib)| most.max(*mib));
    let area = SVGBackend::new(path, (WIDTH, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Resident memory while 200 clients ask for 20 MB each, MiB",
            ("sans-serif", 15).into_font().color(&INK),
        )
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .margin_right(20)
        .build_cartesian_2d(first..last, (1.0..most * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds since the attack began")
        .y_label_formatter(&|mib| grouped(&format!("{mib:.0}")))
        .x_label_formatter(&|seconds| format!("{seconds:.1}"))
        .draw()?;
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = LINES[number % LINES.len()];
        let style = colour.stroke_width(if number < 2 { 3 } else { 2 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(OTHERS)
        .draw()?;
    area.present()?;
    Ok(())
}

/// With as many places as tell something.
pub fn rounded(figure: f64) -> String {
    match figure {
        figure if figure.abs() >= 1000.0 => grouped(&format!("{figure:.0}")),
        figure if figure.abs() >= 100.0 => format!("{figure:.0}"),
        figure if figure.abs() >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

/// With a comma before every three digits.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && text != "-" {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_places_as_tell_something() {
        let texts = [0.123, 5.678, 56.78, 567.8, 5678.0, 1_364_915.2, -12_345.0].map(rounded);
        assert_eq!(
            texts,
            [
                "0.12",
                "5.68",
                "56.8",
                "568",
                "5,678",
                "1,364,915",
                "-12,345"
            ]
        );
    }
}
