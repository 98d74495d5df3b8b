//! FarSight (Tang et al., CVPR 2025): attention registers in the masked half of the map take up what a row has to spare.

use serde::{Deserialize, Serialize};

use super::settings::{Settings, Value};
use crate::error::Result;
use crate::hook::seam::{At, Hook, Needs};
use crate::hook::views::{Attention, HeadOutputs};

/// Settings, with the published defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FarSightConfig {
    /// How fast registers fall with distance: `ln(seq) / ln(1024)`, published for seq = 256. From about 100 on there are none.
    pub sigma: f32,
}

impl Default for FarSightConfig {
    fn default() -> Self {
        Self { sigma: 0.8 }
    }
}

impl Settings for FarSightConfig {
    const NAME: &'static str = "farsight";

    fn set(&mut self, key: &str, value: Value) -> bool {
        match (key, value) {
            ("sigma", Value::Number { single, .. }) => self.sigma = single,
            _ => return false,
        }
        true
    }
}

/// The registers on one request. Row i of n competes with `R_i = sum over d = 1 .. n-1-i of exp(-sigma d)` beside its keys
/// and the registers have no values, so its head outputs are scaled by `Z_i / (Z_i + R_i)`, `Z_i` the sum of the
/// exponentials of its scores. The last row has none, so decoding is the plain model's.
pub struct FarSight(FarSightConfig);

impl FarSight {
    /// Before a prefill.
    pub fn new(config: FarSightConfig) -> Self {
        Self(config)
    }

    /// `ln R` of a row that `later` rows follow.
    fn log_registers(&self, later: usize) -> f64 {
        let (sigma, later) = (f64::from(self.0.sigma), later as f64);
        if sigma == 0.0 {
            return later.ln();
        }
        ((-sigma).exp() * (-sigma * later).exp_m1() / (-sigma).exp_m1()).ln()
    }
}

impl Hook for FarSight {
    fn needs(&self, at: At) -> Needs {
        Needs::attention(at.prefill)
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        let (n, heads) = (o.rows(), at.shape.heads);
        let lse = attention.row_lse();
        let registers: Vec<f32> = (0..n).map(|i| self.log_registers(n - 1 - i) as f32).collect();
        o.scale(|row, head| 1.0 / (1.0 + (registers[row] - lse[row * heads + head]).exp()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_a_geometric_sum() {
        for sigma in [0.0f32, 0.3, 0.8, 5.0] {
            let hook = FarSight::new(FarSightConfig { sigma });
            for later in [1, 2, 40] {
                let want: f64 = (1..=later)
                    .map(|d| (-f64::from(sigma) * f64::from(d)).exp())
                    .sum();
                let got = hook.log_registers(later as usize).exp();
                assert!((got - want).abs() < 1e-9 * want, "{sigma} {later}: {got} {want}");
            }
            assert_eq!(hook.log_registers(0), f64::NEG_INFINITY);
        }
        let none = FarSight::new(FarSightConfig { sigma: 1e30 });
        assert_eq!(none.log_registers(9), f64::NEG_INFINITY);
    }
}
