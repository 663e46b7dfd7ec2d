//! How a set of serial numbers is written shortest: runs as ranges, crowds as bitmaps, the others one by one.

use super::MAX_BITMAP_BITS;

/// Serial numbers that are written together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// One by one: 8 bytes each.
    List(Vec<u64>),
    /// From the first to the last, both included: 16 bytes.
    Range(u64, u64),
    /// The first, and for each one after it how far it is from the first: 8 bytes, and a bit for each number between.
    Bitmap(u64, Vec<u64>),
}

/// What a section costs beside what is in it: its kind, its length.
const SECTION: u64 = 5;
/// And a bitmap's own length, with a byte to keep it positive.
const BITMAP: u64 = SECTION + 8 + 4 + 1;
/// A run that is shorter is better off in a list or a bitmap.
const RUN: u64 = 4;

/// Groups serial numbers, which come in rising order. All lists become one, the last group.
pub(super) fn groups(serials: impl IntoIterator<Item = u64>) -> Vec<Group> {
    let mut groups = Vec::new();
    let (mut crowd, mut loners) = (Vec::new(), Vec::new());
    for (first, last) in runs(serials) {
        if last - first >= RUN - 1 {
            close(&mut crowd, &mut groups, &mut loners);
            groups.push(Group::Range(first, last));
            continue;
        }
        for serial in first..=last {
            if let (Some(start), Some(end)) = (crowd.first(), crowd.last())
                // Worth a bit for each number between, instead of eight bytes for this one?
                && (serial - end > 64 || serial - start >= MAX_BITMAP_BITS)
            {
                close(&mut crowd, &mut groups, &mut loners);
            }
            crowd.push(serial);
        }
    }
    close(&mut crowd, &mut groups, &mut loners);
    if !loners.is_empty() {
        groups.push(Group::List(loners));
    }
    groups
}

/// Numbers without a gap between them, as first and last.
fn runs(serials: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for serial in serials {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(serial) => *last = serial,
            _ => runs.push((serial, serial)),
        }
    }
    runs
}

/// Ends a crowd: a bitmap if that is shorter than one by one.
fn close(crowd: &mut Vec<u64>, groups: &mut Vec<Group>, loners: &mut Vec<u64>) {
    let (Some(first), Some(last)) = (crowd.first().copied(), crowd.last().copied()) else { return };
    let one_by_one = 8 * crowd.len() as u64;
    if BITMAP + (last - first) / 8 + 1 < one_by_one {
        groups.push(Group::Bitmap(first, crowd.iter().map(|serial| serial - first).collect()));
        crowd.clear();
    } else {
        loners.append(crowd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_writing_is_taken_where_it_is_shortest() {
        assert_eq!(groups([]), []);
        assert_eq!(groups([7]), [Group::List(vec![7])]);
        assert_eq!(groups([1, 1000, 1_000_000]), [Group::List(vec![1, 1000, 1_000_000])]);
        assert_eq!(groups(5..=9), [Group::Range(5, 9)]);
        assert_eq!(groups([1, 2]), [Group::List(vec![1, 2])]);
        let even: Vec<u64> = (1..=40).map(|n| n * 2).collect();
        assert_eq!(groups(even.clone()), [Group::Bitmap(2, even.iter().map(|n| n - 2).collect())]);
        let mixed = (1..=40).map(|n| n * 2).chain(100..200).chain([u64::MAX - 1, u64::MAX]);
        assert_eq!(
            groups(mixed),
            [
                Group::Bitmap(2, (0..40).map(|n| n * 2).collect()),
                Group::Range(100, 199),
                Group::List(vec![u64::MAX - 1, u64::MAX])
            ]
        );
        assert_eq!(groups(u64::MAX - 9..=u64::MAX), [Group::Range(u64::MAX - 9, u64::MAX)]);
    }
}
