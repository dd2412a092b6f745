//! Which segments of a plan are fetched before they are asked for: pure bookkeeping, so that it can be shown.

use std::collections::BTreeMap;

/// Things under way, by their place in the plan: `T` is whatever stands for one.
#[derive(Debug)]
pub(crate) struct Window<T> {
    /// How many places the plan has.
    end: usize,
    /// How many places ahead of the one asked for are under way or there.
    ahead: usize,
    under_way: BTreeMap<usize, T>,
}

/// Recovery reads the checkpoint's segment first and then goes back to where the checkpoint began: so much is kept on either side.
const BEHIND: usize = 2;

impl<T> Window<T> {
    pub(crate) fn new(end: usize, ahead: usize) -> Self {
        Self { end, ahead, under_way: BTreeMap::new() }
    }

    /// Moves to `at`: begins what is ahead of it in order, and gives back what was passed by.
    pub(crate) fn move_to(&mut self, at: usize, mut begin: impl FnMut(usize) -> T) -> Vec<(usize, T)> {
        let near = at.saturating_sub(BEHIND)..=at.saturating_add(self.ahead + BEHIND);
        let passed = self.under_way.extract_if(.., |place, _| !near.contains(place)).collect();
        for place in (at..self.end).take(self.ahead + 1) {
            self.under_way.entry(place).or_insert_with(|| begin(place));
        }
        passed
    }

    /// Gives away what stands for this place; another time it is begun anew.
    pub(crate) fn take(&mut self, at: usize) -> Option<T> {
        self.under_way.remove(&at)
    }

    /// Gives back everything.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.under_way).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for `at`; returns what was begun, what was passed by, and whether it had been begun before it was asked for.
    fn ask(window: &mut Window<usize>, at: usize) -> (Vec<usize>, Vec<usize>, bool) {
        let mut begun = Vec::new();
        let passed = window.move_to(at, |place| {
            begun.push(place);
            place
        });
        assert_eq!(window.take(at), Some(at));
        let was_ahead = !begun.contains(&at);
        (begun, passed.into_iter().map(|(place, _)| place).collect(), was_ahead)
    }

    #[test]
    fn after_the_first_every_segment_is_under_way_long_before_it_is_asked_for() {
        let mut window = Window::new(100, 8);
        assert_eq!(ask(&mut window, 0), ((0..=8).collect(), vec![], false));
        for at in 1..100 {
            let (begun, passed, was_ahead) = ask(&mut window, at);
            assert_eq!(begun, Vec::from_iter((at + 8..=at + 8).filter(|place| *place < 100)), "one more for each that is taken");
            assert!(was_ahead && passed.is_empty() && window.under_way.len() <= 8);
        }
    }

    #[test]
    fn going_back_to_where_the_checkpoint_began_loses_nothing_that_is_near() {
        let mut window = Window::new(100, 8);
        assert!(window.move_to(0, |place| place).is_empty());
        assert!(ask(&mut window, 2).2);
        assert_eq!(ask(&mut window, 0), (vec![2], vec![], true), "given away once, wanted again soon");
        assert!(ask(&mut window, 1).2);
        assert_eq!(ask(&mut window, 2), (vec![], vec![], true));
        let (begun, passed, _) = ask(&mut window, 50);
        assert_eq!((begun, passed), ((50..=58).collect(), (3..=10).collect()));
        assert_eq!(ask(&mut window, 3).0, Vec::from_iter(3..=11), "far back: all anew");
    }
}
