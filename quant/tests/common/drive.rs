//! What the fuzzer and the ordinary tests do with hostile bytes.
#![allow(dead_code, unreachable_pub, reason = "each user uses a part")]

use chaski_quant::{
    container::{Container, HEADER_BYTES, TensorKind},
    scalar,
};

use super::common::sign;

/// The file that a fuzz input stands for. Its first byte says how: 0 as it is; 1 without the 65,024
/// zeros between header and data, which a fuzzer need not learn; 2 the same, with checksums made
/// to fit, so that the fields behind them are reached.
pub fn expand(input: &[u8]) -> Vec<u8> {
    let Some((mode, rest)) = input.split_first() else {
        return Vec::new();
    };
    if *mode == 0 || rest.len() <= HEADER_BYTES {
        return rest.to_vec();
    }
    let mut file = rest[..HEADER_BYTES].to_vec();
    file.resize(65536, 0);
    file.extend_from_slice(&rest[HEADER_BYTES..]);
    if *mode == 2 {
        sign(&mut file);
    }
    file
}

/// The input that stands for `file`.
pub fn shorten(mode: u8, file: &[u8]) -> Vec<u8> {
    let mut input = vec![mode];
    if mode == 0 || file.len() < 65536 {
        input.extend_from_slice(file);
    } else {
        input.extend_from_slice(&file[..HEADER_BYTES]);
        input.extend_from_slice(&file[65536..]);
    }
    input
}

/// Opens, verifies and reads everything; must not panic.
pub fn drive(input: &[u8]) {
    let file = expand(input);
    let len = file.len();
    let Ok(container) = Container::from_bytes(file) else {
        return;
    };
    assert!(container.metadata().len() <= len);
    assert!(container.data_range().end <= len);
    let verified = container
        .verify(|done, total| assert!(done <= total))
        .is_ok();
    for (i, tensor) in container.tensors().iter().enumerate() {
        let view = container.tensor(&tensor.name).unwrap();
        assert_eq!(view.bytes, container.tensor_at(i).bytes);
        match tensor.kind {
            TensorKind::Vector { len } => {
                let v = view.vector().unwrap();
                assert_eq!(v.len(), len);
                assert!(!verified || v.iter().all(|x| x.is_finite()));
            }
            TensorKind::Matrix(layout) => {
                let tiles = view.tiles().unwrap();
                assert_eq!(tiles.n_tiles(), layout.n_tiles());
                for t in [0, tiles.n_tiles() - 1] {
                    let rows = layout.tile_rows(t).len();
                    let weights = scalar::dequantize_tile(&layout, t, tiles.tile(t));
                    assert_eq!(weights.len(), rows * layout.cols());
                }
            }
        }
    }
}
