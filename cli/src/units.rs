//! Amounts as people write them, turned into exact integers or refused.

use std::time::Duration;

use jiff::SignedDuration;

/// `0.5` to 500 thousandths.
pub fn thousandths(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a number like 0.5 or 2 (at most three decimals)");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let all_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(part) || part.len() > 3 {
        return Err(refuse());
    }
    let whole: u64 = whole.parse().map_err(|_| refuse())?;
    let part: u64 = format!("{part:0<3}").parse().map_err(|_| refuse())?;
    whole.checked_mul(1000).and_then(|milli| milli.checked_add(part)).ok_or_else(refuse)
}

/// `64MiB` to 64. What is no whole number of MiB is refused, not rounded.
pub fn mebibytes(text: &str) -> Result<u64, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_bytes: u64 = match unit.trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" => return Err(format!("`{text}` has no unit: write {text}MiB or {text}GiB")),
        other => return Err(format!("`{other}` is no unit of memory: use KiB, MiB, GiB or TiB")),
    };
    let milli = thousandths(number).map_err(|_| format!("`{text}` is not an amount like 64MiB or 1.5GiB"))?;
    let bytes = u128::from(milli) * u128::from(unit_bytes) / 1000;
    if u128::from(milli) * u128::from(unit_bytes) % (1000 << 20) != 0 {
        let near = bytes.div_ceil(1 << 20);
        return Err(format!("`{text}` is not a whole number of MiB: write {near}MiB for a little more"));
    }
    u64::try_from(bytes >> 20).map_err(|_| format!("`{text}` is too much"))
}

/// `10s`, `1m30s`, `500ms`; days, of 24 hours, come first: `30d`, `1d12h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a duration like 30d, 1m30s or 500ms");
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) => (days.parse::<u32>().map_err(|_| refuse())?, rest),
        None => (0, text),
    };
    let parsed = match rest {
        "" if rest.len() < text.len() => SignedDuration::ZERO,
        rest => rest.parse().map_err(|_| refuse())?,
    };
    let parsed = Duration::try_from(parsed).map_err(|_| format!("`{text}` lies in the past"))?;
    Ok(Duration::from_secs(u64::from(days) * 24 * 3600) + parsed)
}

/// `K=V`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
    }
}

/// Bytes for people: `64.0 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut place = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10 * 1024 && place + 1 < UNITS.len() {
        tenths /= 1024;
        place += 1;
    }
    if place == 0 {
        return format!("{bytes} B");
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[place])
}

/// Thousandths for people: `0.5`.
pub fn show_thousandths(milli: u64) -> String {
    let (whole, part) = (milli / 1000, milli % 1000);
    if part == 0 {
        return whole.to_string();
    }
    format!("{whole}.{}", format!("{part:03}").trim_end_matches('0'))
}

/// A signal by its name, with or without `SIG`, or by its number.
pub fn signal(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err("signals are 1 to 64".to_owned()) };
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let signal: nix::sys::signal::Signal =
        name.parse().map_err(|_| format!("`{text}` is no signal; `kill -l` lists them"))?;
    Ok((signal as i32).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for hangup in ["HUP", "SIGHUP", "hup", "1"] {
            assert_eq!(signal(hangup), Ok(1));
        }
        for bad in ["d", "1d-2h", "-1d", "1d2d", "", "0", "65", "SIGTEA", "-1"] {
            assert!(signal(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn cpus_are_exact() {
        assert_eq!(thousandths("0.5"), Ok(500));
        assert_eq!(thousandths("2"), Ok(2000));
        assert_eq!(thousandths("0.001"), Ok(1));
        for bad in
            ["d", "1d-2h", "-1d", "1d2d", "", ".5", "1.", "-1", "1e3", "0.0001", "x", "99999999999999999999"]
        {
            assert!(thousandths(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn memory_is_exact_or_refused() {
        assert_eq!(mebibytes("64MiB"), Ok(64));
        assert_eq!(mebibytes("1.5GiB"), Ok(1536));
        assert_eq!(mebibytes("2048KiB"), Ok(2));
        assert_eq!(mebibytes("64"), Err("`64` has no unit: write 64MiB or 64GiB".to_owned()));
        assert_eq!(
            mebibytes("64MB"),
            Err("`64MB` is not a whole number of MiB: write 62MiB for a little more".to_owned())
        );
        for bad in
            ["d", "1d-2h", "-1d", "1d2d", "", "MiB", "64M", "-1MiB", "1.5KiB", "99999999999999999999GiB"]
        {
            assert!(mebibytes(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(duration("1d12h"), Ok(Duration::from_secs(36 * 3600)));
        for bad in ["d", "1d-2h", "-1d", "1d2d", "10", "-5s", "soon"] {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn amounts_are_shown_for_people() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(64 << 20), "64.0 MiB");
        assert_eq!(show_thousandths(1250), "1.25");
    }
}
