//! A curve of divergence against bytes, as an SVG document.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
/// Left, right, top, bottom.
const MARGINS: [f64; 4] = [80.0, 20.0, 24.0, 56.0];

/// The least and the largest number, apart from each other.
fn bounds(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let none = (f64::INFINITY, f64::NEG_INFINITY);
    let (lo, hi) = numbers.fold(none, |(lo, hi), x| (lo.min(x), hi.max(x)));
    if lo < hi {
        (lo, hi)
    } else if lo == hi {
        (lo - 1.0, lo + 1.0)
    } else {
        (-1.0, 1.0)
    }
}

/// A picture of the front, bytes linear, divergence logarithmic, with the choice marked.
pub(crate) fn front(points: &[(f64, f64)], chosen: (f64, f64)) -> String {
    let all = || points.iter().chain([&chosen]);
    // What has no divergence has no place on the curve.
    let logs = all().filter(|p| p.1 > 0.0).map(|p| p.1.log10());
    let (x0, x1) = bounds(all().map(|p| p.0));
    let (y0, y1) = bounds(logs);
    let (y0, y1) = (y0.floor(), y1.ceil());
    let [left, right, top, bottom] = MARGINS;
    let x = |bytes: f64| left + (bytes - x0) / (x1 - x0) * (WIDTH - left - right);
    let y = |kld: f64| HEIGHT - bottom - (kld.log10() - y0) / (y1 - y0) * (HEIGHT - top - bottom);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // Writing to a string cannot fail.
    let mut line = |from: (f64, f64), to: (f64, f64)| {
        let _ = writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
            from.0, from.1, to.0, to.1
        );
    };
    let decades = y0 as i32..=y1 as i32;
    for e in decades.clone() {
        let at = y(10_f64.powi(e));
        line((left, at), (WIDTH - right, at));
    }
    let ticks = (0..=5).map(|i| x0 + (x1 - x0) * f64::from(i) / 5.0);
    for bytes in ticks.clone() {
        line((x(bytes), top), (x(bytes), HEIGHT - bottom));
    }
    for e in decades {
        let at = y(10_f64.powi(e)) + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{at:.1}\" text-anchor=\"end\">1e{e}</text>",
            left - 8.0
        );
    }
    for bytes in ticks {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.1} MB</text>",
            x(bytes),
            HEIGHT - bottom + 18.0,
            bytes / 1e6
        );
    }
    let path: Vec<_> = points
        .iter()
        .filter(|p| p.1 > 0.0)
        .map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1a6\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    if chosen.1 > 0.0 {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"#c33\"/>",
            x(chosen.0),
            y(chosen.1)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">bytes of the file; predicted mean KL \
         divergence from the source, nats; the dot is the choice</text>\n</svg>",
        (left + WIDTH - right) / 2.0,
        HEIGHT - 10.0
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_stays_within_the_picture() {
        for points in [
            vec![(1e6, 0.5), (2e6, 0.02), (3e6, 0.001)],
            vec![(1e6, 0.5)],
            vec![(1e6, 0.0), (2e6, 0.0)],
        ] {
            let svg = front(&points, points[0]);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let svg = front(&[(1e6, 1.0), (2e6, 0.1)], (1.5e6, 0.3));
        assert!(svg.contains("points=\"80.0,24.0 740.0,404.0\""), "{svg}");
    }
}
