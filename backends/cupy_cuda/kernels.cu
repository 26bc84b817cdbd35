// Kernels of the CuPy backend, equations (1)-(18) of docs/model.md. Host code: backend.py beside this file.
//
// Arrays are (B, T, N), C-contiguous; a thread of the dynamics has one neuron of one sample, its unit = sample * N + n,
// and walks through time with its state in registers, so that neighbouring threads read neighbouring addresses. Kernels
// check nothing and allocate nothing. Nothing is summed by atomics: every run repeats its own bits.

typedef long long Index;
typedef unsigned char Flag;  // bool arrays

// Multiply, then add, never in one rounding: potentials and adaptations are the CPU's, bit for bit.
__device__ __forceinline__ float mul(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ float add(float x, float y) { return __fadd_rn(x, y); }
__device__ __forceinline__ double mul(double x, double y) { return __dmul_rn(x, y); }
__device__ __forceinline__ double add(double x, double y) { return __dadd_rn(x, y); }

// What is too small to matter is zero, in every backend.
template <typename T> __device__ __forceinline__ T flush(T x, T tiny) { return x < tiny && x > -tiny ? T(0) : x; }

// Parameters of one neuron; values IN (5, N): beta, p, b, theta_0, bias.
template <typename T> struct Neuron {
    T beta, p, b, theta, bias;
    int period;
    __device__ Neuron(const T* values, const int* refractory, int n, int neurons)
        : beta(values[n]), p(values[neurons + n]), b(values[2 * neurons + n]), theta(values[3 * neurons + n]),
          bias(values[4 * neurons + n]), period(refractory[n]) {}
};

// Steps begin .. end of (1)-(6). voltage_now, adaptation_now, refractory_now INOUT (B, N): the state; spikes OUT; voltage,
// threshold, free_voltage OUT or null, the last that of each block as if it did not spike; start_* OUT (blocks, B, N) or
// null: the state at the start of each block. current IN: element (sample, t, n) at sample * batch_pitch + t * step_pitch
// + n * unit_pitch, without bias where add_bias is set.
template <typename T>
__global__ void forward(
    const T* values, const int* refractory, const T* current, Index batch_pitch, Index step_pitch, Index unit_pitch,
    int add_bias, T* voltage_now, T* adaptation_now, int* refractory_now, Flag* spikes, T* voltage, T* threshold,
    T* free_voltage, T* start_voltage, T* start_adaptation, int* start_refractory, Index units, int neurons, int steps,
    int begin, int end, int block_length, T tiny) {
    const Index unit = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= units) return;
    const Index sample = unit / neurons;
    const int n = (int)(unit % neurons);
    const Neuron<T> neuron(values, refractory, n, neurons);
    current += sample * batch_pitch + n * unit_pitch;
    const Index first = sample * steps * neurons + n;
    T v = voltage_now[unit], a = adaptation_now[unit], u = v;
    int left = refractory_now[unit], free_left = left;
    for (int t = begin; t < end; ++t) {
        const Index here = first + (Index)t * neurons;
        if (t % block_length == 0) {
            const Index start = (Index)(t / block_length) * units + unit;
            if (start_voltage) {
                start_voltage[start] = v;
                start_adaptation[start] = a;
                start_refractory[start] = left;
            }
            u = v;
            free_left = left;
        }
        const bool live = left == 0;                                    // (1)
        const T given = current[t * step_pitch];
        const T input = add_bias ? add(neuron.bias, given) : given;     // (2)
        v = flush(add(mul(neuron.beta, v), live ? input : T(0)), tiny); // (3)
        const T theta = add(neuron.theta, mul(neuron.b, a));            // (4)
        const bool spike = live && v > theta;                           // (5)
        spikes[here] = spike;
        if (voltage) voltage[here] = v;
        if (threshold) threshold[here] = theta;
        if (free_voltage) {
            u = flush(add(mul(neuron.beta, u), free_left == 0 ? input : T(0)), tiny);
            free_left = free_left > 0 ? free_left - 1 : 0;
            free_voltage[here] = u;
        }
        if (spike) v = T(0);
        a = flush(add(mul(neuron.p, a), spike ? T(1) : T(0)), tiny);    // (6)
        left = spike ? neuron.period : live ? 0 : left - 1;
    }
    voltage_now[unit] = v;
    adaptation_now[unit] = a;
    refractory_now[unit] = left;
}

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
    return size < T(1) ? s0 * (T(1) - size) : T(0);  // triangle
}

// sums INOUT (5, B, N) += those of one unit.
__device__ __forceinline__ void add_sums(
    double* sums, Index units, Index unit, double sum_beta, double sum_p, double sum_b, double sum_theta,
    double sum_bias) {
    sums[unit] += sum_beta;
    sums[units + unit] += sum_p;
    sums[2 * units + unit] += sum_b;
    sums[3 * units + unit] += sum_theta;
    sums[4 * units + unit] += sum_bias;
}

// Steps begin .. end of (7)-(12), last first, whole blocks. voltage, spikes, start_* IN: the tape; grad_spikes IN: lambda_S
// of (7) but for its last two terms; grad_voltage IN or null; into_voltage, into_adaptation INOUT (B, N): gradient of the
// state after the last step, then of that before the first; grad_current OUT; sums INOUT (5, B, N): beta, p, b, theta_0,
// bias; adaptation: scratch (L, B, N).
template <typename T, int KIND>
__global__ void adjoint(
    const T* values, const int* refractory, const T* voltage, const Flag* spikes, const T* start_voltage,
    const T* start_adaptation, const int* start_refractory, const T* grad_spikes, const T* grad_voltage, T* into_voltage,
    T* into_adaptation, T* grad_current, double* sums, T* adaptation, T s0, T s1, T s2, T s3, T s4, int through_reset,
    int through_adaptation, Index units, int neurons, int steps, int begin, int end, int block_length, T tiny) {
    const Index unit = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= units) return;
    const Index sample = unit / neurons;
    const int n = (int)(unit % neurons);
    const Neuron<T> neuron(values, refractory, n, neurons);
    const Index first = sample * steps * neurons + n;
    T into_v = into_voltage[unit], into_a = into_adaptation[unit];
    double sum_beta = 0, sum_p = 0, sum_b = 0, sum_theta = 0, sum_bias = 0;
    for (int block = (end - 1) / block_length; block * block_length >= begin; --block) {
        const int start = block * block_length, stop = min(start + block_length, end);
        const Index at_start = (Index)block * units + unit;
        const int live_from = start + start_refractory[at_start];
        // what the tape does not hold: adaptation, and when the neuron spiked
        T a = start_adaptation[at_start];
        int spiked_at = stop;
        for (int t = start; t < stop; ++t) {
            adaptation[(t - start) * units + unit] = a;
            const bool spike = spikes[first + (Index)t * neurons];
            if (spike) spiked_at = t;
            a = flush(add(mul(neuron.p, a), spike ? T(1) : T(0)), tiny);
        }
        for (int t = stop - 1; t >= start; --t) {
            const Index here = first + (Index)t * neurons;
            const T v = voltage[here];
            a = adaptation[(t - start) * units + unit];
            const bool live = t >= live_from && t <= spiked_at;
            const T m = v - add(neuron.theta, mul(neuron.b, a));
            const T slope = live ? slope_of<T, KIND>(m, s0, s1, s2, s3, s4) : T(0);
            T lambda_s = grad_spikes[here];  // (7)
            if (through_adaptation) lambda_s += into_a;
            if (through_reset) lambda_s -= v * into_v;
            const T delta = slope * lambda_s;  // (8)
            T lambda_v = delta + (t == spiked_at ? T(0) : into_v);  // (9)
            if (grad_voltage) lambda_v += grad_voltage[here];
            lambda_v = flush(lambda_v, tiny);
            const T current = live ? lambda_v : T(0);  // (11)
            grad_current[here] = current;
            const T handed = t == start ? start_voltage[at_start] : t - 1 == spiked_at ? T(0) : voltage[here - neurons];
            sum_bias += current;
            sum_beta += lambda_v * handed;  // (12)
            sum_p += into_a * a;
            sum_b -= delta * a;
            sum_theta -= delta;
            into_a = flush(neuron.p * into_a - neuron.b * delta, tiny);  // (10)
            into_v = flush(neuron.beta * lambda_v, tiny);
        }
    }
    into_voltage[unit] = into_v;
    into_adaptation[unit] = into_a;
    add_sums(sums, units, unit, sum_beta, sum_p, sum_b, sum_theta, sum_bias);
}

// The paper's gradient, (14)-(17); voltage IN: u of each block, as if it did not spike; adaptation: scratch (2 L, B, N);
// all else as above.
template <typename T, int KIND>
__global__ void adjoint_of_paper(
    const T* values, const int* refractory, const T* voltage, const Flag* spikes, const T* start_voltage,
    const T* start_adaptation, const int* start_refractory, const T* grad_spikes, const T* grad_voltage, T* into_voltage,
    T* into_adaptation, T* grad_current, double* sums, T* adaptation, T s0, T s1, T s2, T s3, T s4, int through_reset,
    int through_adaptation, Index units, int neurons, int steps, int begin, int end, int block_length, T tiny) {
    const Index unit = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= units) return;
    const Index sample = unit / neurons;
    const int n = (int)(unit % neurons);
    const Neuron<T> neuron(values, refractory, n, neurons);
    const Index first = sample * steps * neurons + n;
    T handed_v = into_voltage[unit], into_a = into_adaptation[unit];
    double sum_beta = 0, sum_p = 0, sum_b = 0, sum_theta = 0, sum_bias = 0;
    for (int block = (end - 1) / block_length; block * block_length >= begin; --block) {
        const int start = block * block_length, stop = min(start + block_length, end);
        const Index at_start = (Index)block * units + unit;
        const int live_from = start + start_refractory[at_start];
        T a = start_adaptation[at_start], free_a = a;
        int spiked_at = stop;
        for (int t = start; t < stop; ++t) {
            adaptation[2 * (t - start) * units + unit] = a;
            adaptation[(2 * (t - start) + 1) * units + unit] = free_a;
            const bool spike = spikes[first + (Index)t * neurons];
            if (spike) spiked_at = t;
            a = flush(add(mul(neuron.p, a), spike ? T(1) : T(0)), tiny);
            free_a = flush(mul(neuron.p, free_a), tiny);
        }
        T u = voltage[first + (Index)(stop - 1) * neurons];
        T reset = -u * handed_v;
        T into_u = spiked_at < stop ? T(0) : handed_v;
        T into_free_a = T(0), plain = T(0), ramp = T(0);
        for (int t = stop - 1; t >= start; --t) {
            const Index here = first + (Index)t * neurons;
            a = adaptation[2 * (t - start) * units + unit];
            free_a = adaptation[(2 * (t - start) + 1) * units + unit];
            const T grad_v = grad_voltage ? grad_voltage[here] : T(0);
            const T m = u - add(neuron.theta, mul(neuron.b, free_a));
            T lambda_s = grad_spikes[here];
            if (through_adaptation) lambda_s += into_a;
            if (through_reset) lambda_s += reset;
            reset -= u * grad_v;
            plain += lambda_s;
            ramp += plain;                                                      // (14)
            const T delta = slope_of<T, KIND>(m, s0, s1, s2, s3, s4) * ramp;    // (15)
            const T lambda_u = flush((t > spiked_at ? T(0) : grad_v) + delta + into_u, tiny);  // (16)
            const T current = t >= live_from ? lambda_u : T(0);
            grad_current[here] = current;
            u = t == start ? start_voltage[at_start] : voltage[here - neurons];
            sum_bias += current;
            sum_beta += lambda_u * u;
            sum_p += into_free_a * free_a + into_a * a;  // (17)
            sum_b -= delta * free_a;
            sum_theta -= delta;
            into_free_a = flush(neuron.p * into_free_a - neuron.b * delta, tiny);
            into_a = flush(neuron.p * into_a, tiny);
            into_u = flush(neuron.beta * lambda_u, tiny);
        }
        handed_v = into_u;
        into_a += into_free_a;
    }
    into_voltage[unit] = handed_v;
    into_adaptation[unit] = into_a;
    add_sums(sums, units, unit, sum_beta, sum_p, sum_b, sum_theta, sum_bias);
}

// out INOUT (rows, N) += rows of weights IN (K, N), event by event in ascending order: (2) for events.
// blockIdx.x: row; blockIdx.y and threads: neurons.
template <typename T>
__global__ void add_events(const Index* indptr, const int* indices, const T* weights, T* out, int neurons) {
    const Index row = blockIdx.x;
    const int n = blockIdx.y * blockDim.x + threadIdx.x;
    if (n >= neurons) return;
    T total = out[row * neurons + n];
    for (Index event = indptr[row]; event < indptr[row + 1]; ++event)
        total = add(total, weights[(Index)indices[event] * neurons + n]);
    out[row * neurons + n] = total;
}

// out INOUT (B, T, N) += S[t - latency] weights for `rows` steps from `begin` on, weights IN (K, N), spikes IN (B, T, K) or,
// before the first step, history IN (B, latency, K): (2) for spikes as flags. A warp reads 32 flags at once, and adds the
// rows of those that are set, in ascending order. blockIdx.x: sample * rows + step; blockIdx.y and threads: neurons.
template <typename T>
__global__ void add_spikes(
    const Flag* spikes, const Flag* history, const T* weights, T* out, int inputs, int neurons, int steps, int begin,
    int rows, int latency) {
    const int sample = blockIdx.x / rows, t = begin + blockIdx.x % rows, ago = t - latency;
    const int n = blockIdx.y * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    const Flag* fired = ago < 0 ? history + ((Index)sample * latency + latency + ago) * inputs
                                : spikes + ((Index)sample * steps + ago) * inputs;
    const Index here = ((Index)sample * steps + t) * neurons + n;
    T total = n < neurons ? out[here] : T(0);
    for (int first = 0; first < inputs; first += 32) {  // all lanes: a vote needs every one
        unsigned set = __ballot_sync(0xffffffffu, first + lane < inputs && fired[first + lane]);
        while (set) {
            const int source = first + __ffs(set) - 1;
            set &= set - 1;
            if (n < neurons) total = add(total, weights[(Index)source * neurons + n]);
        }
    }
    if (n < neurons) out[here] = total;
}

// row_of OUT: the row of each event.
__global__ void rows_of_events(const Index* indptr, Index rows, Index* row_of) {
    const Index row = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    for (Index event = indptr[row]; event < indptr[row + 1]; ++event) row_of[event] = row;
}

// grad OUT (K, N): the sum of rows of grad_current IN (rows, N) over the events of each input, (11). row_of IN: rows of
// events, sorted by input; starts IN (K + 1,): where each input's begin. blockIdx.x: input; blockIdx.y, threads: neurons.
template <typename T>
__global__ void gather_gradient(const Index* row_of, const Index* starts, const T* grad_current, T* grad, int neurons) {
    const Index input = blockIdx.x;
    const int n = blockIdx.y * blockDim.x + threadIdx.x;
    if (n >= neurons) return;
    T total = T(0);
    for (Index event = starts[input]; event < starts[input + 1]; ++event) total += grad_current[row_of[event] * neurons + n];
    grad[input * neurons + n] = total;
}

// y OUT, x IN (B, T, N): (18), forward or backward in time.
template <typename T>
__global__ void leaky_filter(const T* x, T* y, T decay, int reverse, Index units, int neurons, int steps, T tiny) {
    const Index unit = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= units) return;
    const Index first = unit / neurons * steps * neurons + unit % neurons;
    T total = T(0);
    for (int step = 0; step < steps; ++step) {
        const Index here = first + (Index)(reverse ? steps - 1 - step : step) * neurons;
        total = flush(decay * total + x[here], tiny);
        y[here] = total;
    }
}

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
    const Index unit = ((Index)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (unit >= units) return;  // whole warps
    const Index sample = unit / neurons;
    const int n = (int)(unit % neurons);
    const Neuron<T> neuron(values, refractory, n, neurons);
    current += sample * batch_pitch + n * unit_pitch;
    const Index first = sample * steps * neurons + n;
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
    const Index unit = ((Index)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (unit >= units) return;  // whole warps
    const Index sample = unit / neurons;
    const int n = (int)(unit % neurons);
    const Neuron<T> neuron(values, refractory, n, neurons);
    const Index first = sample * steps * neurons + n;
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
