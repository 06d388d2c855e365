//! The likeliest token.

use lacuna_emulator::Scheduler;
use lacuna_reference::testing::Rng;

use super::{Check, check};
use crate::common::argmax::{expected, largest, matrix, random_logits};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    (kernel == "argmax").then(|| {
        let mut rng = Rng::new(1);
        let mut rows = |rows, n| -> Vec<Vec<f32>> { (0..rows).map(|_| random_logits(&mut rng, n)).collect() };
        let mut odd = rows(3, 4999);
        odd[1][4998] = f32::NAN;
        odd[2][7] = f32::INFINITY;
        let mut ties = rows(2, 9000);
        ties[0].iter_mut().enumerate().for_each(|(i, x)| *x = -((i % 7 + i / 5000) as f32));
        ties[1][4100] = f32::MAX;
        ties[1][8999] = f32::MAX;
        vec![
            searches(odd, 0),
            searches(ties.clone(), 3),
            searches(ties, 0).under(Scheduler::Adversarial(2)),
            searches(rows(1, 1), 0),
            searches(rows(65, 300), 1),
            searches(rows(66, 4100), 0),
        ]
    })
}

fn searches(rows: Vec<Vec<f32>>, gap: usize) -> Check {
    let want: Vec<u32> = rows.iter().map(|row| expected(row)).collect();
    let logits = matrix(&rows, gap);
    check(move |device| assert_eq!(largest(device, &logits).expect("a search"), want))
}
