//! Scores in descending order, and decisions that rounding may turn.

/// How to decide when a score lies close to a cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Slack {
    /// As the rule says; ties go to the lowest index.
    Exact,
    /// Against the entry, when the relative distance to the cut is below this.
    Certain(f64),
    /// For the entry, when the relative distance to the cut is below this.
    Possible(f64),
}

impl Slack {
    /// The relative distance below which a decision is close.
    pub fn eps(self) -> f64 {
        match self {
            Self::Exact => 0.0,
            Self::Certain(eps) | Self::Possible(eps) => eps,
        }
    }

    /// A limit on a sum that an entry must stay within.
    pub fn limit(self, limit: f64) -> f64 {
        match self {
            Self::Exact => limit,
            Self::Certain(eps) => limit * (1.0 - eps),
            Self::Possible(eps) => limit * (1.0 + eps),
        }
    }
}

/// Scores sorted descending, ties by lowest index, NaN last.
pub(crate) struct Ranking {
    rank: Vec<usize>,
    sorted: Vec<f64>,
    prefix: Vec<f64>,
}

impl Ranking {
    pub fn new(scores: &[f64]) -> Self {
        let key = |i: usize| if scores[i].is_nan() { (1, 0.0) } else { (0, -scores[i]) };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&i, &j| key(i).partial_cmp(&key(j)).expect("NaN has its own key"));
        let mut rank = vec![0; scores.len()];
        order.iter().enumerate().for_each(|(position, &i)| rank[i] = position);
        let sorted: Vec<f64> = order.iter().map(|&i| scores[i]).collect();
        let mut prefix = vec![0.0];
        prefix.extend(sorted.iter().scan(0.0, |sum, x| {
            *sum += x;
            Some(*sum)
        }));
        Self { rank, sorted, prefix }
    }

    /// How many other entries come before entry `i`.
    pub fn before(&self, i: usize, slack: Slack) -> usize {
        let score = self.sorted[self.rank[i]];
        match slack {
            _ if score.is_nan() => self.rank[i],
            Slack::Exact => self.rank[i],
            Slack::Certain(eps) => {
                self.sorted.partition_point(|&x| x >= score * (1.0 - eps)).saturating_sub(1)
            }
            Slack::Possible(eps) => self.sorted.partition_point(|&x| x > score * (1.0 + eps)),
        }
    }

    /// The sum of the `n` largest entries.
    pub fn sum_of(&self, n: usize) -> f64 {
        self.prefix[n]
    }

    /// How many of the prefix sums `x1`, `x1 + x2`, ... lie within `limit`.
    pub fn covered(&self, limit: f64) -> usize {
        self.prefix[1..].iter().filter(|&&sum| sum <= limit).count()
    }

    /// The entries among the first `k`, ascending.
    pub fn top(&self, k: usize, slack: Slack) -> Vec<usize> {
        (0..self.rank.len()).filter(|&i| self.before(i, slack) < k).collect()
    }
}
