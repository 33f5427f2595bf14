//! Charts of training as SVG: `curves` of a run, its loss above and its accuracies below, and
//! `lines`, one quantity over the epochs of several runs.

use std::{error::Error, ops::Range};

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
};

use tilewise::train::History;

const SIZE: (u32, u32) = (900, 760);
/// Size of a chart of several runs.
const LINES_SIZE: (u32, u32) = (620, 330);
/// Most points of a line; longer histories are drawn as means of neighbors.
const MAX_POINTS: usize = 1500;
/// Part of the iterations over which the smooth loss is a mean.
const SMOOTHING: usize = 50;
/// Most epochs whose points are marked.
const MAX_MARKS: usize = 60;

const PALE: RGBColor = RGBColor(176, 200, 226);
const BLUE: RGBColor = RGBColor(31, 90, 166);
const ORANGE: RGBColor = RGBColor(208, 96, 16);
const GRID: RGBColor = RGBColor(225, 225, 225);
const INK: RGBColor = RGBColor(40, 40, 40);

/// Colors of several runs, distinct on white and on black; a ninth run has the first again.
pub(super) const COLORS: [RGBColor; 8] = [
    RGBColor(52, 119, 196),
    RGBColor(217, 114, 43),
    RGBColor(46, 158, 107),
    RGBColor(156, 96, 190),
    RGBColor(209, 73, 91),
    RGBColor(31, 154, 168),
    RGBColor(181, 139, 0),
    RGBColor(125, 125, 125),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn Error>>;

/// The loss of every iteration and the accuracies after every epoch, as SVG.
///
/// # Errors
/// Those of the drawing library.
pub(super) fn curves(history: &History) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let page = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        page.fill(&WHITE)?;
        let (above, below) = page.split_vertically(SIZE.1 / 2);
        loss(&above, &history.loss_history)?;
        accuracies(&below, history)?;
        page.present()?;
    }
    Ok(svg)
}

/// One quantity over the epochs of several runs, on a transparent ground and without a legend: run
/// `i` has the color `COLORS[i % 8]`. Each run is a list of (epoch, value).
///
/// # Errors
/// Those of the drawing library.
pub(super) fn lines(title: &str, runs: &[Vec<(f64, f64)>]) -> Result<String, Box<dyn Error>> {
    let points = || runs.iter().flatten().filter(|(_, y)| y.is_finite());
    let top = points().map(|&(_, y)| y).fold(0.0, f64::max);
    let top = if top > 0.0 { 1.05 * top } else { 1.0 };
    let last = points().map(|&(x, _)| x).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let page = SVGBackend::with_string(&mut svg, LINES_SIZE).into_drawing_area();
        let mut chart = panel(&page, title, "epoch", "", 0.0..last, 0.0..top)?;
        for (run, &color) in runs.iter().zip(COLORS.iter().cycle()) {
            let run: Vec<_> = run.iter().copied().filter(|(_, y)| y.is_finite()).collect();
            chart.draw_series(LineSeries::new(run.iter().copied(), color.stroke_width(2)))?;
            if run.len() <= MAX_MARKS {
                chart.draw_series(run.iter().map(|&at| Circle::new(at, 3, color.filled())))?;
            }
        }
        page.present()?;
    }
    Ok(svg)
}

fn loss(area: &Area<'_>, losses: &[f64]) -> Drawn {
    let top = losses.iter().copied().filter(|x| x.is_finite()).fold(0.0, f64::max);
    let top = if top > 0.0 { 1.05 * top } else { 1.0 };
    let mut chart = panel(
        area,
        "Training loss",
        "iteration",
        "loss",
        0.0..losses.len().max(1) as f64,
        0.0..top,
    )?;
    line(&mut chart, &means(losses, losses.len().div_ceil(MAX_POINTS)), PALE, 1, "of a batch")?;
    let window = losses.len().div_ceil(SMOOTHING);
    let label = format!("mean of {window} iterations");
    line(&mut chart, &means(losses, window), BLUE, 2, &label)?;
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

fn accuracies(area: &Area<'_>, history: &History) -> Drawn {
    let (train, validation) = (&history.train_acc_history, &history.val_acc_history);
    let all = || train.iter().chain(validation).copied().filter(|x| x.is_finite());
    // Up to the next tenth.
    let top = (all().fold(0.05, f64::max) * 10.0).ceil() / 10.0;
    let epochs = train.len().max(1) as f64;
    let best = validation.iter().copied().enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let title = best.map_or("Accuracy".into(), |(epoch, accuracy)| {
        format!("Accuracy (best validation {accuracy:.4}, epoch {})", epoch + 1)
    });
    let mut chart = panel(area, &title, "epoch", "accuracy", 0.0..epochs, 0.0..top)?;
    for (values, color, name) in
        [(train, ORANGE, "training sample"), (validation, BLUE, "validation")]
    {
        let points: Vec<_> = (1..).map(f64::from).zip(values.iter().copied()).collect();
        line(&mut chart, &points, color, 2, name)?;
        if points.len() <= MAX_MARKS {
            chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, color.filled())))?;
        }
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

/// Empty axes with their labels.
fn panel<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    x_label: &str,
    y_label: &str,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<Chart<'a, 'b>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 23).into_font().color(&INK))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y.clone())?;
    let decimals = match y.end {
        end if end > 10.0 => 0,
        end if end > 0.1 => 2,
        _ => 4,
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 17).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 19).into_font().color(&INK))
        .x_desc(x_label)
        .y_desc(y_label)
        .x_label_formatter(&|x| if x.fract() == 0.0 { x.to_string() } else { String::new() })
        .y_label_formatter(&|y| format!("{y:.decimals$}"))
        .draw()?;
    Ok(chart)
}

fn line(
    chart: &mut Chart<'_, '_>,
    points: &[(f64, f64)],
    color: RGBColor,
    width: u32,
    label: &str,
) -> Drawn {
    let style = color.stroke_width(width);
    chart
        .draw_series(LineSeries::new(points.iter().copied(), style))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition) -> Drawn {
    chart
        .configure_series_labels()
        .position(position)
        .margin(12)
        .legend_area_size(30)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(("sans-serif", 17).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// Means of every `window` values that follow each other, at the middle of their iterations;
/// what is not finite is left out.
fn means(values: &[f64], window: usize) -> Vec<(f64, f64)> {
    let window = window.max(1);
    let mean = |(number, part): (usize, &[f64])| {
        let (mut sum, mut count) = (0.0, 0);
        for value in part.iter().filter(|value| value.is_finite()) {
            sum += value;
            count += 1;
        }
        let middle = (number * window) as f64 + (part.len() as f64 + 1.0) / 2.0;
        (count > 0).then(|| (middle, sum / f64::from(count)))
    };
    values.chunks(window).enumerate().filter_map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_stand_in_the_middle() {
        assert_eq!(means(&[1.0, 3.0, 5.0, 8.0, 7.0], 2), [(1.5, 2.0), (3.5, 6.5), (5.0, 7.0)]);
        assert_eq!(means(&[1.0, f64::NAN, f64::INFINITY], 2), [(1.5, 1.0)]);
        assert!(means(&[], 0).is_empty());
    }

    #[test]
    fn any_history_can_be_drawn() {
        let history = |losses: &[f64], accuracies: &[f64]| History {
            loss_history: losses.to_vec(),
            train_acc_history: accuracies.to_vec(),
            val_acc_history: accuracies.to_vec(),
        };
        for history in [
            history(&[], &[]),
            history(&[f64::NAN], &[]),
            history(&[2.3, f64::INFINITY], &[0.0]),
            history(&vec![1e30; 5000], &vec![1.0; 500]),
        ] {
            let svg = curves(&history).unwrap();
            assert!(svg.contains("iteration") && svg.contains("validation"), "{svg}");
            assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && svg.len() < 300_000, "{}", svg.len());
        }
    }
}
