//! Motion: the scene differs from the one that was last looked at, and has become still.

use std::time::{Duration, Instant};

use super::{Trigger, Turn};
use crate::area::Area;
use crate::frame::{Frame, Picture};

/// Frames are compared as brightness on a grid of this side: coarse enough that a camera's noise
/// averages out.
const SIDE: usize = 32;

/// How long a scene that does not become still is waited for, if it need not be still for longer.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Compares frames.
#[derive(Debug)]
pub struct Motion {
    /// Difference of a cell's brightness that counts as changed, 0 to 255.
    pub threshold: f32,
    /// Share of the cells that must have changed.
    pub min_area: f32,
    /// Frames without motion after which a scene counts as still.
    pub still_frames: u32,
    /// How long a scene must be without motion, beside that.
    pub still_for: Duration,
    /// A scene that does not become still is looked at after this time.
    pub max_wait: Duration,
    /// The cells where motion counts.
    zone: Vec<bool>,
    looked_at: Option<Grid>,
    previous: Option<Grid>,
    still: u32,
    still_since: Option<Instant>,
    changed_since: Option<Instant>,
    /// Where the scene differed from the one before when it was looked at last.
    part: Option<Area>,
}

impl Default for Motion {
    fn default() -> Self {
        Motion {
            threshold: 14.0,
            min_area: 0.01,
            still_frames: 2,
            still_for: Duration::ZERO,
            max_wait: MAX_WAIT,
            zone: vec![true; SIDE * SIDE],
            looked_at: None,
            previous: None,
            still: 0,
            still_since: None,
            changed_since: None,
            part: None,
        }
    }
}

type Grid = Vec<f32>;

/// How fast the scene that was looked at follows slow changes of light, a frame.
const ADAPTATION: f32 = 0.05;

impl Trigger for Motion {
    fn turn(&mut self, frame: &Frame, now: Instant, may: bool) -> Turn {
        if may && self.fires(frame, now) {
            Turn::Rises
        } else if self.changed_since.is_none() {
            Turn::Stands
        } else {
            Turn::Nothing
        }
    }

    fn part(&self) -> Option<Area> {
        self.part
    }
}

impl Motion {
    fn fires(&mut self, frame: &Frame, now: Instant) -> bool {
        let grid = brightness(&frame.picture);
        let moving = match &self.previous {
            Some(previous) => self.differ(previous, &grid),
            None => false,
        };
        if moving {
            self.still = 0;
            self.still_since = None;
        } else {
            self.still += 1;
            self.still_since.get_or_insert(now);
        }
        let changed = match &self.looked_at {
            Some(looked_at) => self.differ(looked_at, &grid),
            None => true,
        };
        self.previous = Some(grid.clone());
        if !changed {
            self.changed_since = None;
            if let Some(looked_at) = &mut self.looked_at {
                for (old, new) in looked_at.iter_mut().zip(&grid) {
                    *old += ADAPTATION * (new - *old);
                }
            }
            return false;
        }
        let since = *self.changed_since.get_or_insert(now);
        let still_for = self.still_since.map(|t| now.saturating_duration_since(t));
        let still = self.still >= self.still_frames && still_for >= Some(self.still_for);
        let fires = still || now.duration_since(since) >= self.max_wait;
        if fires {
            let old = self.looked_at.take();
            self.part = old.and_then(|old| self.bounds(&old, &grid));
            self.looked_at = Some(grid);
            self.changed_since = None;
        }
        fires
    }

    /// Motion within these parts of the picture; anywhere, if there are none. A scene must be still for
    /// `debounce`.
    pub(crate) fn new(zones: &[Area], debounce: Option<Duration>) -> Self {
        let side = 1.0 / SIDE as f64;
        let within = |cell: usize| {
            let (left, top) = ((cell % SIDE) as f64 * side, (cell / SIDE) as f64 * side);
            let cell = Area {
                left,
                top,
                right: left + side,
                bottom: top + side,
            };
            zones.is_empty() || zones.iter().any(|zone| zone.meets(&cell))
        };
        let still_for = debounce.unwrap_or_default();
        Motion {
            zone: (0..SIDE * SIDE).map(within).collect(),
            still_for,
            max_wait: MAX_WAIT.max(still_for * 2),
            ..Motion::default()
        }
    }

    /// The rectangle around all that has changed, and a cell more on each side: what moves leaves cells at its
    /// edge nearly as they were.
    fn bounds(&self, a: &Grid, b: &Grid) -> Option<Area> {
        let changed =
            |cell: &usize| self.zone[*cell] && (a[*cell] - b[*cell]).abs() > self.threshold;
        let cells = || (0..a.len()).filter(changed);
        let (columns, rows) = (|| cells().map(|c| c % SIDE), || cells().map(|c| c / SIDE));
        let from = |cell: usize| cell.saturating_sub(1) as f64 / SIDE as f64;
        let to = |cell: usize| (cell + 2).min(SIDE) as f64 / SIDE as f64;
        Some(Area {
            left: from(columns().min()?),
            top: from(rows().min()?),
            right: to(columns().max()?),
            bottom: to(rows().max()?),
        })
    }

    fn differ(&self, a: &Grid, b: &Grid) -> bool {
        let cells = a
            .iter()
            .zip(b)
            .zip(&self.zone)
            .filter(|(_, within)| **within);
        let (mut all, mut changed) = (0, 0);
        for ((a, b), _) in cells {
            all += 1;
            changed += u32::from((a - b).abs() > self.threshold);
        }
        changed > 0 && changed as f32 >= self.min_area * all as f32
    }
}

/// The mean brightness (Rec. 601) of every cell of a grid over the picture.
fn brightness(picture: &Picture) -> Grid {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let mut sums = vec![(0.0f32, 0u32); SIDE * SIDE];
    for (y, row) in picture.rgb.chunks_exact(width * 3).enumerate() {
        let line = y * SIDE / height * SIDE;
        for (x, p) in row.chunks_exact(3).enumerate() {
            let cell = &mut sums[line + x * SIDE / width];
            cell.0 += 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
            cell.1 += 1;
        }
    }
    let mean = |(sum, count): (f32, u32)| if count == 0 { 0.0 } else { sum / count as f32 };
    sums.into_iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    /// A grey frame with a white square of `size` pixels at `left`.
    fn frame(left: usize, size: usize) -> Frame {
        let mut rgb = vec![100; 64 * 64 * 3];
        for y in 20..20 + size {
            for x in left..left + size {
                rgb[(y * 64 + x) * 3..][..3].fill(255);
            }
        }
        Frame {
            number: 1,
            at: OffsetDateTime::UNIX_EPOCH,
            picture: Picture {
                width: 64,
                height: 64,
                rgb: rgb.into(),
            },
        }
    }

    fn fired(frames: &[Frame], period: Duration) -> Vec<usize> {
        let mut motion = Motion::default();
        let start = Instant::now();
        let at = |i: usize| start + period * i as u32;
        let fires = |(i, f)| motion.fires(f, at(i)).then_some(i);
        frames.iter().enumerate().filter_map(fires).collect()
    }

    #[test]
    fn a_scene_is_looked_at_once_it_is_still_and_not_again() {
        let mut frames = vec![frame(0, 0); 5];
        frames.extend([frame(4, 16), frame(12, 16)]);
        frames.extend(vec![frame(20, 16); 6]);
        // The first scene when it is still, the next two still frames after the square stopped.
        assert_eq!(fired(&frames, Duration::from_millis(100)), [1, 9]);
    }

    #[test]
    fn what_has_changed_is_within_its_part() {
        let mut motion = Motion::default();
        let start = Instant::now();
        let mut parts = Vec::new();
        for (i, left) in [0, 0, 0, 24, 24, 24].into_iter().enumerate() {
            let size = if i < 3 { 0 } else { 16 };
            let now = start + Duration::from_millis(100) * i as u32;
            if motion.fires(&frame(left, size), now) {
                parts.push(motion.part().map(|part| part.pixels(64, 64)));
            }
        }
        // The square and a cell of 2 pixels around it.
        assert_eq!(parts, [None, Some([22, 18, 20, 20])]);
    }

    #[test]
    fn a_change_below_the_least_area_is_ignored() {
        let mut frames = vec![frame(0, 0); 4];
        frames.extend(vec![frame(20, 3); 6]);
        assert_eq!(fired(&frames, Duration::from_millis(100)), [1]);
    }

    #[test]
    fn motion_outside_of_the_zone_does_not_count() {
        let zone = |left, right| Area {
            left,
            top: 0.0,
            right,
            bottom: 1.0,
        };
        let mut frames = vec![frame(0, 0); 4];
        frames.extend(vec![frame(44, 16); 6]);
        let start = Instant::now();
        let fired = |zone| {
            let mut motion = Motion::new(&[zone], Some(Duration::from_millis(350)));
            let at = |i: usize| start + Duration::from_millis(100) * i as u32;
            let fires = |(i, f)| motion.fires(f, at(i)).then_some(i);
            frames
                .iter()
                .enumerate()
                .filter_map(fires)
                .collect::<Vec<_>>()
        };
        // Still for 350 ms: four frames after the first still one.
        assert_eq!(fired(zone(0.0, 0.5)), [4]);
        assert_eq!(fired(zone(0.5, 1.0)), [9]);
    }

    #[test]
    fn a_scene_that_never_becomes_still_is_looked_at_all_the_same() {
        let frames: Vec<Frame> = (0..30).map(|i| frame(i * 7 % 44, 16)).collect();
        assert_eq!(fired(&frames, Duration::from_secs(1)), [5, 11, 17, 23, 29]);
    }
}
