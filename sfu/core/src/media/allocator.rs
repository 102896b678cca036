//! Which layers of its tracks a subscriber gets, when its network does not carry all of them.

/// Times a layer's rate that must fit before a track is raised to it: rates vary.
const RAISE_MARGIN: f64 = 1.1;
/// Share of the budget by which rates may exceed it before a track is lowered.
const KEEP_MARGIN: f64 = 1.05;

/// A track as the allocator sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Demand {
    /// 1 is served first; 0 comes last.
    pub(super) priority: u32,
    /// Bits a second of each step that may be sent, in rising quality; empty when the track is
    /// not wanted or not active.
    pub(super) steps: Vec<f64>,
    /// The step that is sent now.
    pub(super) current: Option<usize>,
}

/// What an allocation comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allocation {
    /// The step of each track; `None` for one that does not fit, or that is not wanted.
    pub(super) steps: Vec<Option<usize>>,
    /// Bits a second that would allow the next improvement; `None` when every track has its
    /// best step.
    pub(super) need: Option<f64>,
}

/// Divides `budget` bit/s. Every track gets its lowest step first, in order of priority and as far
/// as they fit into the budget `for_lowest`; then tracks of one priority are raised in turn, before
/// those of the next.
pub(super) fn allocate(demands: &[Demand], budget: f64, for_lowest: f64) -> Allocation {
    let mut order: Vec<usize> =
        (0..demands.len()).filter(|&index| !demands[index].steps.is_empty()).collect();
    let priority = |index: usize| demands[index].priority.wrapping_sub(1);
    order.sort_by_key(|&index| priority(index));
    let mut steps: Vec<Option<usize>> = vec![None; demands.len()];
    let mut spent = 0.0;
    let mut need: Option<f64> = None;
    let mut missed = |total: f64| need = Some(need.map_or(total, |known: f64| known.min(total)));
    for &index in &order {
        let demand = &demands[index];
        let total = spent + demand.steps[0];
        if fits(total, for_lowest, demand.current.is_some()) {
            steps[index] = Some(0);
            spent = total;
        } else {
            missed(total * RAISE_MARGIN);
        }
    }
    for group in order.chunk_by(|&a, &b| priority(a) == priority(b)) {
        let highest = group.iter().map(|&index| demands[index].steps.len()).max().unwrap_or(1);
        for step in 1..highest {
            for &index in group {
                let demand = &demands[index];
                let Some(&rate) = demand.steps.get(step) else { continue };
                if steps[index] != Some(step - 1) {
                    continue;
                }
                let total = spent + (rate - demand.steps[step - 1]).max(0.0);
                let is_kept = demand.current.is_some_and(|current| current >= step);
                if fits(total, budget, is_kept) {
                    steps[index] = Some(step);
                    spent = total;
                } else {
                    missed(total * RAISE_MARGIN);
                }
            }
        }
    }
    Allocation { steps, need }
}

fn fits(total: f64, budget: f64, is_kept: bool) -> bool {
    if is_kept { total <= budget * KEEP_MARGIN } else { total * RAISE_MARGIN <= budget }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMULCAST: [f64; 3] = [150e3, 500e3, 1500e3];

    fn demand(priority: u32, steps: &[f64], current: Option<usize>) -> Demand {
        Demand { priority, steps: steps.to_vec(), current }
    }

    #[test]
    fn one_track_gets_the_best_step_that_fits_and_keeps_it_a_little_longer() {
        let cases: [(f64, Option<usize>, Option<usize>); 8] = [
            (100e3, None, None),
            (170e3, None, Some(0)),
            (520e3, Some(0), Some(0)),
            (560e3, Some(0), Some(1)),
            (490e3, Some(1), Some(1)),
            (470e3, Some(1), Some(0)),
            (5e6, None, Some(2)),
            (145e3, Some(0), Some(0)),
        ];
        for (budget, current, expected) in cases {
            let found = allocate(&[demand(0, &SIMULCAST, current)], budget, budget);
            assert_eq!(found.steps, [expected], "{budget} {current:?}");
            assert_eq!(found.need.is_none(), expected == Some(2));
        }
        let forced = allocate(&[demand(0, &SIMULCAST, None)], 1e3, f64::INFINITY);
        assert_eq!(forced.steps, [Some(0)]);
    }

    #[test]
    fn tracks_are_raised_in_turn_and_by_priority() {
        let equal: Vec<Demand> = (0..3).map(|_| demand(0, &SIMULCAST, None)).collect();
        assert_eq!(allocate(&equal, 1e6, 1e6).steps, [Some(1), Some(0), Some(0)]);
        assert_eq!(allocate(&equal, 1.8e6, 1.8e6).steps, [Some(1); 3]);
        assert_eq!(allocate(&equal, 400e3, 400e3).steps, [Some(0), Some(0), None]);
        let ranked =
            [demand(0, &SIMULCAST, None), demand(2, &SIMULCAST, None), demand(1, &SIMULCAST, None)];
        assert_eq!(allocate(&ranked, 2.1e6, 2.1e6).steps, [Some(0), Some(0), Some(2)]);
        assert_eq!(allocate(&ranked, 340e3, 340e3).steps, [None, Some(0), Some(0)]);
    }

    #[test]
    fn the_need_is_the_nearest_improvement() {
        let found = allocate(&[demand(0, &SIMULCAST, Some(0))], 300e3, 300e3);
        assert_eq!(found.need, Some(500e3 * RAISE_MARGIN));
        let unwanted = allocate(&[demand(0, &[], None)], 0.0, 0.0);
        assert_eq!((unwanted.steps, unwanted.need), (vec![None], None));
    }
}
