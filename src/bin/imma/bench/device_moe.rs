//! The experts of known models on a GPU.

use super::device::{cuda, Gpu};
use super::moe::{Layer, Measured, Random};
use crate::Failure;
use half::bf16;
use imma::cuda::{DeviceChoices, DeviceExperts, DeviceWeights, Matrix, WeightOrder};
use imma::DType;
use ndarray::Array2;

impl Gpu {
    /// A layer's experts, of random weights.
    pub fn experts(&self, layer: &Layer) -> Result<DeviceExperts, Failure> {
        let (device, stream) = (&self.device, &self.stream);
        let pack = |n: usize, k: usize, seed: u64| -> Result<DeviceWeights, Failure> {
            let rows = Random(seed).bytes(n * layer.here, k);
            let bytes = rows.as_slice().unwrap_or_default();
            let on = stream.clone_htod(bytes).map_err(cuda("cuMemcpyHtoD"))?;
            let (matrix, order) = (Matrix::new(&on, n * layer.here, k), WeightOrder::Outputs);
            Ok(DeviceWeights::pack_int8(
                device,
                stream,
                matrix,
                order,
                Some(&[0.011]),
            )?)
        };
        let gate_up = pack(2 * layer.intermediate, layer.features, 0x85EB_CA6B)?;
        let down = pack(layer.features, layer.intermediate, 0xC2B2_AE35)?;
        let experts = DeviceExperts::from_weights(device, gate_up, down, layer.here)?;
        Ok(experts.with_place(0, layer.total)?)
    }

    /// Times the whole layer, captured in a graph. Weights of models are larger than any cache, so nothing is rotated.
    pub fn time_experts(
        &self,
        experts: &DeviceExperts,
        indices: &Array2<i32>,
        seconds: f64,
    ) -> Result<Measured, Failure> {
        let (tokens, choices) = indices.dim();
        let plan = experts.plan(tokens, choices, DType::BF16)?;
        let x = Random(0x27D4_EB2F).bytes(tokens, experts.features());
        let x: Vec<bf16> = x.iter().map(|x| bf16::from_f32(f32::from(*x))).collect();
        let upload = cuda("cuMemcpyHtoD");
        let x = self.stream.clone_htod(&x).map_err(&upload)?;
        let indices: Vec<i32> = indices.iter().copied().collect();
        let indices = self.stream.clone_htod(&indices).map_err(&upload)?;
        let weights = vec![0.125f32; tokens * choices];
        let weights = self.stream.clone_htod(&weights).map_err(&upload)?;
        let mut y = self.zeros::<bf16>(tokens * experts.features())?;
        let mut workspace = self.zeros::<u8>(plan.workspace_bytes())?;
        let timing = self.captured(1, seconds, |_| {
            let choices = DeviceChoices::new(&indices, &weights);
            let x = Matrix::new(&x, tokens, experts.features());
            let y = Matrix::new(&mut y, tokens, experts.features());
            experts.run(&plan, &self.stream, x, choices, y, &mut workspace)?;
            Ok(())
        })?;
        self.device.check_faults()?;
        let [gate_up, down] = plan.instances();
        Ok(Measured {
            part: "experts",
            kernel: format!("igemm_grouped {gate_up} {down}"),
            timing,
            single: None,
        })
    }
}
