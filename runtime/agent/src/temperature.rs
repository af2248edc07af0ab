//! How hot the board is, as the kernel's thermal zones say.

use std::path::Path;

/// Where Linux has them (Documentation/driver-api/thermal/sysfs-api.rst).
pub(crate) const SENSORS: &str = "/sys/class/thermal";
/// A sensor that says more, or less, is broken. Degrees Celsius.
const BELIEVABLE: std::ops::Range<f64> = -60.0..200.0;

/// Degrees Celsius of the hottest sensor below `folder`, to a tenth; none if there is no sensor.
pub(crate) fn hottest(folder: &Path) -> Option<f64> {
    let zones = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let millidegrees = zones.filter_map(|zone| {
        let text = std::fs::read_to_string(zone.path().join("temp")).ok()?;
        text.trim().parse::<i32>().ok()
    });
    let degrees = millidegrees.map(|m| (f64::from(m) / 100.0).round() / 10.0);
    degrees
        .filter(|d| BELIEVABLE.contains(d))
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_sensor_counts_and_broken_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(hottest(folder.path()), None);
        for (zone, text) in [
            ("thermal_zone0", "41250\n"),
            ("thermal_zone1", "56780\n"),
            ("thermal_zone2", "-274000\n"),
            ("thermal_zone3", "2147483647\n"),
            ("cooling_device0", ""),
        ] {
            let zone = folder.path().join(zone);
            std::fs::create_dir(&zone).unwrap();
            std::fs::write(zone.join("temp"), text).unwrap();
        }
        assert_eq!(hottest(folder.path()), Some(56.8));
        assert_eq!(hottest(&folder.path().join("none")), None);
    }
}
