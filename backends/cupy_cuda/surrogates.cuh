// Surrogate derivatives, compiled into each adjoint by the number of their kind.

// sigma'(m): the formulas of blocksim.surrogates, by Surrogate.kind; s0 .. s4 from kernel_scales there.
template <typename T, int KIND> __device__ __forceinline__ T slope_of(T m, T s0, T s1, T s2, T s3, T s4) {
    const T size = m < T(0) ? -m : m;
    if (KIND == 0) {  // fast_sigmoid, superspike
        const T root = T(1) + s0 * size;
        return T(1) / (root * root);
    }
    if (KIND == 1) return m > -s0 && m <= s0 ? T(1) : T(0);  // box_car
    if (KIND == 2) {                                         // multi_gaussian
        const T right = m - s4, left = m + s4;
        return s0 * exp(s1 * m * m) - s2 * (exp(s3 * right * right) + exp(s3 * left * left));
    }
    if (KIND == 3) return s0 / (T(1) + s1 * m * s1 * m);  // arctan
    if (KIND == 4) {                                      // sigmoid
        const T e = exp(-s0 * size);
        return s0 * e / ((T(1) + e) * (T(1) + e));
    }
    if (KIND == 5) return size < T(1) ? s0 * (T(1) - size) : T(0);  // triangle
    return T(nan(""));  // no kind of ours: no gradient, rather than another surrogate's
}
