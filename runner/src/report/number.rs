//! Numbers with their units, three significant digits where they are measurements.

use std::time::Duration;

/// `812 us`, `41.3 ms`, `8.91 s`, `12m 03s`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 599.5 {
        let seconds = seconds.round() as u64;
        format!("{}m {:02}s", seconds / 60, seconds % 60)
    } else if seconds >= 0.9995 {
        format!("{} s", three_digits(seconds))
    } else if seconds >= 0.9995e-3 {
        format!("{} ms", three_digits(seconds * 1e3))
    } else {
        format!("{} us", three_digits(seconds * 1e6))
    }
}

/// A share as percent: `100%`, `12.3%`, `0.41%`.
pub fn format_density(share: f64) -> String {
    match share * 100.0 {
        percent if percent >= 99.95 => format!("{percent:.0}%"),
        percent if percent >= 9.995 => format!("{percent:.1}%"),
        percent => format!("{percent:.2}%"),
    }
}

/// A ratio of times: `1.00x`, `12.3x`, `104x`.
pub fn format_speedup(ratio: f64) -> String {
    format!("{}x", three_digits(ratio))
}

/// `41.2 tok/s`, `38,211 tok/s`.
pub fn format_rate(tokens_per_second: f64) -> String {
    match tokens_per_second {
        rate if rate.is_finite() && rate >= 999.5 => format!("{} tok/s", format_count(rate.round() as usize)),
        rate => format!("{} tok/s", three_digits(rate)),
    }
}

/// A count with its thousands apart: `32,768`.
pub fn format_count(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `312 B`, `4.00 KiB`, `1.27 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{} {}", three_digits(value), UNITS[unit]) }
}

fn three_digits(x: f64) -> String {
    match x.abs() {
        a if a >= 99.95 => format!("{x:.0}"),
        a if a >= 9.995 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.0, "0.00 us"),
            (812e-6, "812 us"),
            (0.9996e-3, "1.00 ms"),
            (41.3e-3, "41.3 ms"),
            (0.9996, "1.00 s"),
            (8.911, "8.91 s"),
            (9.996, "10.0 s"),
            (599.4, "599 s"),
            (599.6, "10m 00s"),
            (723.0, "12m 03s"),
        ] {
            assert_eq!(format_duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn shares_ratios_rates_counts_and_bytes() {
        assert_eq!(
            [1.0, 0.9996, 0.12345, 0.09996, 0.0041, 0.0].map(format_density),
            ["100%", "100%", "12.3%", "10.0%", "0.41%", "0.00%"]
        );
        assert_eq!([1.0, 12.34, 104.2].map(format_speedup), ["1.00x", "12.3x", "104x"]);
        assert_eq!([41.234, 38211.4, 999.6].map(format_rate), ["41.2 tok/s", "38,211 tok/s", "1,000 tok/s"]);
        assert_eq!([0, 999, 1000, 1234567].map(format_count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [312, 1000, 4096, 1363148800].map(format_bytes),
            ["312 B", "0.98 KiB", "4.00 KiB", "1.27 GiB"]
        );
    }
}
