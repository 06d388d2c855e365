//! The little linear algebra that building weights takes.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A row-major matrix.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Matrix {
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..][..self.cols]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..][..self.cols]
    }

    pub fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.cols, self.rows);
        for i in 0..self.rows {
            for j in 0..self.cols {
                out[(j, i)] = self[(i, j)];
            }
        }
        out
    }

    /// `self * other`. The circuits are nearly all zeros, which cost nothing here.
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows);
        let mut out = Self::zeros(self.rows, other.cols);
        for i in 0..self.rows {
            let out_row = out.row_mut(i);
            for (k, &x) in self.row(i).iter().enumerate().filter(|(_, x)| **x != 0.0) {
                for (o, y) in out_row.iter_mut().zip(other.row(k)) {
                    *o += x * y;
                }
            }
        }
        out
    }

    /// The rows in a new order.
    pub fn permuted_rows(&self, order: &[usize]) -> Self {
        let data = order.iter().flat_map(|&i| self.row(i)).copied().collect();
        Self { rows: order.len(), cols: self.cols, data }
    }

    /// A random rotation: rows of uniform numbers, orthonormalised one after another (Gram-Schmidt, applied twice for
    /// full precision). Not uniform among rotations, but without zeros, which is all that is asked of it. Only `+ - *
    /// /` and square roots come in, so a seed gives the same bits on every machine.
    pub fn orthogonal(n: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut out = Self::zeros(n, n);
        for i in 0..n {
            let (done, rest) = out.data.split_at_mut(i * n);
            let row = &mut rest[..n];
            row.fill_with(|| rng.random_range(-1.0..1.0));
            for _ in 0..2 {
                for earlier in done.chunks_exact(n) {
                    let along: f64 = earlier.iter().zip(&*row).map(|(a, b)| a * b).sum();
                    row.iter_mut().zip(earlier).for_each(|(x, e)| *x -= along * e);
                }
            }
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        out
    }
}

impl std::ops::Index<(usize, usize)> for Matrix {
    type Output = f64;
    fn index(&self, (i, j): (usize, usize)) -> &f64 {
        &self.data[i * self.cols + j]
    }
}

impl std::ops::IndexMut<(usize, usize)> for Matrix {
    fn index_mut(&mut self, (i, j): (usize, usize)) -> &mut f64 {
        &mut self.data[i * self.cols + j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn orthogonal_times_its_transpose_is_the_identity() {
        let q = Matrix::orthogonal(96, &mut ChaCha8Rng::seed_from_u64(3));
        let product = q.times(&q.transposed());
        for i in 0..96 {
            for j in 0..96 {
                assert!((product[(i, j)] - f64::from(i == j)).abs() < 1e-14);
            }
        }
        assert!(q.data.iter().all(|x| *x != 0.0));
    }

    #[test]
    fn products_and_permutations() {
        let a = Matrix { rows: 2, cols: 3, data: vec![1., 2., 0., 0., -1., 3.] };
        let b = Matrix { rows: 3, cols: 2, data: vec![1., 0., 2., 1., 0., 4.] };
        assert_eq!(a.times(&b).data, [5., 2., -2., 11.]);
        assert_eq!(a.transposed().data, [1., 0., 2., -1., 0., 3.]);
        assert_eq!(b.permuted_rows(&[2, 0, 1]).data, [0., 4., 1., 0., 2., 1.]);
    }
}
