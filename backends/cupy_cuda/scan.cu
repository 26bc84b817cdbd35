// The scans: a warp takes 32 steps of one neuron of one sample, a lane a step, for few neurons and long recordings. They
// compute (3) and (7)-(10) as products of powers of the decays, in another order of rounding than step by step.

constexpr unsigned ALL_LANES = 0xffffffffu;

// Inclusive scan over lanes of total[i] = factor total[i - 1] + x[i], from lane `start` on; power[j] = factor^(2^j).
template <typename T> __device__ __forceinline__ T scan_up(T x, const T* power, int lane, int start) {
    for (int j = 0; j < 5; ++j) {
        const T before = __shfl_up_sync(ALL_LANES, x, 1 << j);
        if (lane - (1 << j) >= start) x += power[j] * before;
    }
    return x;
}

template <typename T> __device__ __forceinline__ void powers(T factor, T* power) {
    power[0] = factor;
    for (int j = 1; j < 5; ++j) power[j] = power[j - 1] * power[j - 1];
}

// factor^exponent for 0 <= exponent < 32.
template <typename T> __device__ __forceinline__ T raised(const T* power, int exponent) {
    T result = T(1);
    for (int j = 0; j < 5; ++j)
        if (exponent >> j & 1) result *= power[j];
    return result;
}

// As `forward`, but for free_voltage; start_* OUT (ceil(T / 32), B, N): the state at the start of every 32 steps.
template <typename T>
__global__ void forward_scan(
    const T* values, const int* refractory, const T* current, Index batch_pitch, Index step_pitch, Index unit_pitch,
    int add_bias, T* voltage_now, T* adaptation_now, int* refractory_now, Flag* spikes, T* voltage, T* threshold,
    T* start_voltage, T* start_adaptation, int* start_refractory, Index units, int neurons, int steps, T tiny) {
    const Index unit = thread_number() / 32;
    const int lane = threadIdx.x % 32;
    if (unit >= units) return;  // whole warps
    const Place place(unit, neurons, steps);
    const Neuron<T> neuron(values, refractory, place.n, neurons);
    current += place.sample * batch_pitch + place.n * unit_pitch;
    const Index first = place.first;
    T of_beta[5], of_p[5];
    powers(neuron.beta, of_beta);
    powers(neuron.p, of_p);
    T v = voltage_now[unit], a = adaptation_now[unit];
    int left = refractory_now[unit];
    for (int begin = 0; begin < steps; begin += 32) {
        const int t = begin + lane;
        const bool there = t < steps;
        if (start_voltage && lane == 0) {
            const Index start = (Index)(begin / 32) * units + unit;
            start_voltage[start] = v;
            start_adaptation[start] = a;
            start_refractory[start] = left;
        }
        T input = there ? current[t * step_pitch] : T(0);
        if (add_bias) input += neuron.bias;
        T my_v = T(0), my_a = T(0);
        int my_left = 0;
        bool my_spike = false;
        // lanes before `start` are done; v, a and left are those that lane `start` is handed
        for (int start = 0; start < 32;) {
            const bool open = lane >= start;
            const int left_now = max(left - (lane - start), 0);
            const bool live = open && there && left_now == 0;  // (1)
            T x = live ? input : T(0);
            if (lane == start) x += neuron.beta * v;
            x = scan_up(open ? x : T(0), of_beta, lane, start);                // (3)
            const T a_now = a * raised(of_p, open ? lane - start : 0);         // (6) until the next spike
            const T theta = neuron.theta + neuron.b * a_now;                   // (4)
            const unsigned crossing = __ballot_sync(ALL_LANES, live && x > theta);
            const int spike = __ffs(crossing) - 1;                             // (5): the first; none is -1
            if (open && (spike < 0 || lane <= spike)) {
                my_v = flush(x, tiny);
                my_a = flush(a_now, tiny);
                my_left = left_now;
                my_spike = lane == spike;
            }
            if (spike < 0) break;
            a = neuron.p * __shfl_sync(ALL_LANES, a_now, spike) + T(1);
            v = T(0);
            left = neuron.period;
            start = spike + 1;
        }
        if (there) {
            const Index here = first + (Index)t * neurons;
            spikes[here] = my_spike;
            if (voltage) voltage[here] = my_v;
            if (threshold) threshold[here] = neuron.theta + neuron.b * my_a;
        }
        const int last = min(31, steps - 1 - begin);
        v = __shfl_sync(ALL_LANES, my_spike ? T(0) : my_v, last);
        a = flush(__shfl_sync(ALL_LANES, neuron.p * my_a + (my_spike ? T(1) : T(0)), last), tiny);
        left = __shfl_sync(ALL_LANES, my_spike ? neuron.period : max(my_left - 1, 0), last);
    }
    __syncwarp();  // every lane has read what one now writes
    if (lane == 0) {
        voltage_now[unit] = v;
        adaptation_now[unit] = a;
        refractory_now[unit] = left;
    }
}

// What a step of (7)-(10) does to (lambda_V, lambda_a) of the next, a linear map and a shift:
// v' = vv v + va a + v0, a' = av v + aa a + a0.
template <typename T> struct Step {
    T vv, va, v0, av, aa, a0;
    // this one after an earlier one (in the order of work: of a later time)
    __device__ Step after(const Step& o) const {
        return {vv * o.vv + va * o.av, vv * o.va + va * o.aa, vv * o.v0 + va * o.a0 + v0,
                av * o.vv + aa * o.av, av * o.va + aa * o.aa, av * o.v0 + aa * o.a0 + a0};
    }
    __device__ Step down(int lanes) const {
        return {__shfl_down_sync(ALL_LANES, vv, lanes), __shfl_down_sync(ALL_LANES, va, lanes),
                __shfl_down_sync(ALL_LANES, v0, lanes), __shfl_down_sync(ALL_LANES, av, lanes),
                __shfl_down_sync(ALL_LANES, aa, lanes), __shfl_down_sync(ALL_LANES, a0, lanes)};
    }
};

// As `adjoint`, for the tape of `forward_scan`.
template <typename T, int KIND>
__global__ void adjoint_scan(
    const T* values, const int* refractory, const T* voltage, const Flag* spikes, const T* start_voltage,
    const T* start_adaptation, const int* start_refractory, const T* grad_spikes, const T* grad_voltage, T* into_voltage,
    T* into_adaptation, T* grad_current, double* sums, T s0, T s1, T s2, T s3, T s4, int through_reset,
    int through_adaptation, Index units, int neurons, int steps, T tiny) {
    const Index unit = thread_number() / 32;
    const int lane = threadIdx.x % 32;
    if (unit >= units) return;  // whole warps
    const Place place(unit, neurons, steps);
    const Neuron<T> neuron(values, refractory, place.n, neurons);
    const Index first = place.first;
    T of_p[5];
    powers(neuron.p, of_p);
    T into_v = into_voltage[unit], into_a = into_adaptation[unit];
    double sum_beta = 0, sum_p = 0, sum_b = 0, sum_theta = 0, sum_bias = 0;
    for (int chunk = (steps - 1) / 32; chunk >= 0; --chunk) {
        const int t = chunk * 32 + lane;
        const bool there = t < steps;
        const Index here = first + (Index)(there ? t : 0) * neurons, at_start = (Index)chunk * units + unit;
        const bool spike = there && spikes[here];
        const T v = there ? voltage[here] : T(0);
        // liveness and adaptation, from the chunk's start and the spikes before this lane
        const unsigned fired = __ballot_sync(ALL_LANES, spike);
        const unsigned before = fired & ((1u << lane) - 1);
        const int left = before ? neuron.period - (lane - 1 - (31 - __clz((int)before))) : start_refractory[at_start] - lane;
        const bool live = there && left <= 0;
        T a = lane > 0 && fired >> (lane - 1) & 1 ? T(1) : T(0);
        if (lane == 0) a = start_adaptation[at_start];
        a = flush(scan_up(a, of_p, lane, 0), tiny);
        const T m = v - (neuron.theta + neuron.b * a);
        const T slope = live ? slope_of<T, KIND>(m, s0, s1, s2, s3, s4) : T(0);
        const T grad_s = there ? grad_spikes[here] : T(0), grad_v = there && grad_voltage ? grad_voltage[here] : T(0);
        const T of_a = through_adaptation ? slope : T(0), of_v = through_reset ? slope * v : T(0);
        const T keep = spike ? T(0) : T(1);
        // delta = slope grad_s + of_a lambda_a - of_v lambda_v, put into (9) and (10)
        Step<T> mine = {neuron.beta * (keep - of_v), neuron.beta * of_a, neuron.beta * (slope * grad_s + grad_v),
                        neuron.b * of_v, neuron.p - neuron.b * of_a, -neuron.b * slope * grad_s};
        if (!there) mine = {T(1), T(0), T(0), T(0), T(1), T(0)};
        for (int j = 1; j < 32; j *= 2) {
            const Step<T> later = mine.down(j);
            if (lane + j < 32) mine = mine.after(later);
        }
        const T next_v = flush(mine.vv * into_v + mine.va * into_a + mine.v0, tiny);
        const T next_a = flush(mine.av * into_v + mine.aa * into_a + mine.a0, tiny);
        const T down_v = __shfl_down_sync(ALL_LANES, next_v, 1), down_a = __shfl_down_sync(ALL_LANES, next_a, 1);
        const T my_v = lane == 31 ? into_v : down_v, my_a = lane == 31 ? into_a : down_a;
        const T delta = slope * grad_s + of_a * my_a - of_v * my_v;            // (8)
        const T lambda_v = flush(delta + keep * my_v + grad_v, tiny);          // (9)
        const T handed_by_lane = __shfl_up_sync(ALL_LANES, spike ? T(0) : v, 1);
        const T handed = lane == 0 ? start_voltage[at_start] : handed_by_lane;
        if (there) {
            const T current = live ? lambda_v : T(0);                          // (11)
            grad_current[here] = current;
            sum_bias += current;
            sum_beta += lambda_v * handed;                                     // (12)
            sum_p += my_a * a;
            sum_b -= delta * a;
            sum_theta -= delta;
        }
        into_v = __shfl_sync(ALL_LANES, next_v, 0);
        into_a = __shfl_sync(ALL_LANES, next_a, 0);
    }
    double totals[5] = {sum_beta, sum_p, sum_b, sum_theta, sum_bias};
    for (int k = 0; k < 5; ++k) {
        for (int j = 16; j > 0; j /= 2) totals[k] += __shfl_xor_sync(ALL_LANES, totals[k], j);
    }
    __syncwarp();
    if (lane == 0) {
        add_sums(sums, units, unit, totals[0], totals[1], totals[2], totals[3], totals[4]);
        into_voltage[unit] = into_v;
        into_adaptation[unit] = into_a;
    }
}
