//! The kernels in the encoding of AVX-512 VNNI and VL.

super::matmul::kernels!("avx2,fma,f16c,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
