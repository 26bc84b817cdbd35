// Escape noise, equation (39): the hazard of a step, and what a neuron draws; and softplus. blocksim.numerics and
// blocksim._escape, to the bit: only additions, multiplications and divisions that round as the CPU's do, in their order.

__device__ __forceinline__ float power_of_two(float k) { return __int_as_float(((int)k + 127) << 23); }
__device__ __forceinline__ double power_of_two(double k) { return __longlong_as_double(((long long)k + 1023) << 52); }

// Of the exponential: where it underflows, and the degree of its series.
template <typename T> constexpr T LOWEST = sizeof(T) == 4 ? T(-87) : T(-708);
template <typename T> constexpr int DEGREE = sizeof(T) == 4 ? 7 : 13;

// exp(x), of x up to 60; 0 where it would underflow.
template <typename T> __device__ __forceinline__ T exponential(T x) {
    const T within = max(x, T(LOWEST<T>)), k = rint(mul(within, T(1.4426950408889634)));
    const T r = add(add(within, -mul(k, T(0.693145751953125))), -mul(k, T(1.4286068203094172e-06)));
    T total = T(1);
#pragma unroll
    for (int n = DEGREE<T>; n > 0; --n) total = add(mul(mul(total, r), T(1.0 / n)), T(1));
    return x < LOWEST<T> ? T(0) : mul(total, power_of_two(k));
}

// exp(-|x|).
template <typename T> __device__ __forceinline__ T decayed(T x) { return exponential(x > T(0) ? -x : x); }

// log(1 + exp(-|x|)): blocksim.numerics.bend.
template <typename T> __device__ __forceinline__ T bend(T x) {
    constexpr int LAST = DEGREE<T> + 4;
    const T y = decayed(x), s = y / add(T(2), y), square = mul(s, s);
    T total = T(1.0 / (2 * LAST + 1));
#pragma unroll
    for (int term = LAST - 1; term >= 0; --term) total = add(mul(total, square), T(1.0 / (2 * term + 1)));
    return mul(mul(T(2), s), total);
}

// 1 / (1 + exp(-x)), its slope and that of max(x, 0) together.
template <typename T> __device__ __forceinline__ T logistic(T x) {
    const T y = decayed(x);
    return (x > T(0) ? T(1) : y) / (T(1) + y);
}

// (39), of a step in which the neuron is live; distance: U - theta.
template <typename T> __device__ __forceinline__ T hazard_of(T distance, T rate, T steepness) {
    return mul(rate, exponential(min(mul(distance, steepness), T(60))));
}

// The slope in U of the probability of a spike, 1 - exp(-hazard).
template <typename T> __device__ __forceinline__ T hazard_slope(T distance, T rate, T steepness) {
    const T hazard = min(hazard_of(distance, rate, steepness), T(60));  // beyond, the slope is zero to any precision
    return hazard * exponential(-hazard) * steepness;
}

// A neuron's draw of that number, of an exponential distribution: Philox4x32-10 with the seed as its key. unit: number of
// the neuron, counted through all samples; place: of the layer in its network.
__device__ inline double draw(
    unsigned first_key, unsigned second_key, unsigned place, unsigned long long unit, unsigned number) {
    unsigned a = (unsigned)unit, b = (unsigned)(unit >> 32), c = number, d = place;
    for (int round = 0; round < 10; ++round) {
        const unsigned long long left = 0xD2511F53ull * a, right = 0xCD9E8D57ull * c;
        a = (unsigned)(right >> 32) ^ b ^ first_key;
        b = (unsigned)right;
        c = (unsigned)(left >> 32) ^ d ^ second_key;
        d = (unsigned)left;
        first_key += 0x9E3779B9u;
        second_key += 0xBB67AE85u;
    }
    const unsigned long long bits = ((unsigned long long)a << 32 | b) >> 11;
    int exponent;
    double x = frexp(mul(add((double)bits, 0.5), 1.1102230246251565e-16), &exponent);
    if (x < 0.7071067811865476) {
        x = 2 * x;
        --exponent;
    }
    const double s = add(x, -1.0) / add(x, 1.0), square = mul(s, s);
    double total = 1.0 / 25;
    for (int term = 11; term >= 0; --term) total = add(mul(total, square), 1.0 / (2 * term + 1));
    return -add(mul((double)exponent, 0.6931471805599453), mul(2 * s, total));
}
