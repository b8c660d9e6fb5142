//! The kernels in the encoding of AVX-VNNI.

super::matmul::kernels!("avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32);
