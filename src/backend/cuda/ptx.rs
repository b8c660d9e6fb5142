//! The kernels as the driver takes them: PTX that `scripts/cuda_ptx.py` made of `kernels/`, one text for each `.cu` file.

/// Texts of PTX, by the name of their source; together they have every [`Kernel`](super::args::Kernel)'s entry once.
pub const MODULES: [(&str, &str); 13] = [
    ("attend_f16", include_str!("kernels/ptx/attend_f16.ptx")),
    ("attend_f32", include_str!("kernels/ptx/attend_f32.ptx")),
    ("attend_merge", include_str!("kernels/ptx/attend_merge.ptx")),
    ("attend_q8", include_str!("kernels/ptx/attend_q8.ptx")),
    ("elementwise", include_str!("kernels/ptx/elementwise.ptx")),
    ("matrix_float", include_str!("kernels/ptx/matrix_float.ptx")),
    ("matrix_q3", include_str!("kernels/ptx/matrix_q3.ptx")),
    ("matrix_q4", include_str!("kernels/ptx/matrix_q4.ptx")),
    ("matrix_q5", include_str!("kernels/ptx/matrix_q5.ptx")),
    ("matrix_q6", include_str!("kernels/ptx/matrix_q6.ptx")),
    ("matrix_q8", include_str!("kernels/ptx/matrix_q8.ptx")),
    ("probe", include_str!("kernels/ptx/probe.ptx")),
    ("rope_store", include_str!("kernels/ptx/rope_store.ptx")),
];

/// Whether a text of PTX has an entry.
pub fn has_entry(text: &str, entry: &str) -> bool {
    text.match_indices(".entry ").any(|(at, directive)| {
        let rest = &text[at + directive.len()..];
        rest.strip_prefix(entry)
            .is_some_and(|rest| rest.starts_with('('))
    })
}
