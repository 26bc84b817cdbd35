// The linear family, equations (28)-(38): one thread a unit, its components and synapses in registers.

// While refractory, (30): "ignore", "hold" and "integrate".
constexpr int HOLD = 1, INTEGRATE = 2;

// The kind of surrogate that is the slope of a stochastic spike's probability.
constexpr int HAZARD = 6;

// ABOVE: some components hear U above a knot; SOFT: some of these by a softplus.
constexpr int SOFT = 2;

// NOISE: where spikes come from, if not from (32). The adjoint has DRAWN for both.
constexpr int DRAWN = 1, IMPOSED = 2;

// An array in registers: its length may be 0, and C++ has no such array.
constexpr int room(int length) { return length > 0 ? length : 1; }

// Bit `place` of flags that the host has packed: of each component, receptor, or target of currents.
__device__ __forceinline__ bool is_set(Index flags, int place) { return flags >> place & 1; }

// Parameters of one neuron: values IN (7, N): beta, theta_0, bias, f, v_reset, and of (39) the rate and 1 / width, read
// where spikes are stochastic, NOISE; components IN (8, C, N): q, d, k, g, h, knot, softness, 1 / softness.
// `after` has the bits of components that hear V after the reset in place of U, and `above`, where ABOVE, of those that
// hear U above the knot; `soft`, where ABOVE is SOFT, of those among them that do so by a softplus.
template <typename T, int C, int ABOVE, int NOISE> struct LinearNeuron {
    T beta, theta, bias, factor, reset, rate, steepness;
    T q[room(C)], d[room(C)], k[room(C)], g[room(C)], h[room(C)];
    int period, neurons;
    Index after, above, soft;
    const T* knots;  // read where they are needed: most neurons have none
    __device__ LinearNeuron(
        const T* values, const T* components, const int* refractory, Index after, Index above, Index soft, int n,
        int neurons)
        : beta(values[n]), theta(values[neurons + n]), bias(values[2 * neurons + n]), factor(values[3 * neurons + n]),
          reset(values[4 * neurons + n]), rate(NOISE ? values[5 * neurons + n] : T(0)),
          steepness(NOISE ? values[6 * neurons + n] : T(0)), period(refractory[n]), neurons(neurons), after(after),
          above(above), soft(soft), knots(components + (Index)5 * C * neurons + n) {
#pragma unroll
        for (int j = 0; j < C; ++j) {
            const T* first = components + (Index)j * neurons + n;
            const Index next = (Index)C * neurons;
            q[j] = first[0];
            d[j] = first[next];
            k[j] = first[2 * next];
            g[j] = first[3 * next];
            h[j] = first[4 * next];
        }
    }
    __device__ T threshold(const T* c) const {  // (31)
        T total = theta;
#pragma unroll
        for (int j = 0; j < C; ++j) total = add(total, mul(h[j], c[j]));
        return total;
    }
    __device__ T after_reset(T u, bool spike) const { return spike ? add(mul(factor, u), reset) : u; }  // (33)
    __device__ bool is_above(int j) const { return ABOVE && is_set(above, j); }
    __device__ bool is_soft(int j) const { return ABOVE == SOFT && is_set(soft, j); }
    __device__ T softness(int j) const { return knots[(Index)(C + j) * neurons]; }
    // U - knot, and as a multiple of the softness.
    __device__ T distance(int j, T u) const { return u - knots[(Index)j * neurons]; }
    __device__ T bent(int j, T u) const { return mul(distance(j, u), knots[(Index)(2 * C + j) * neurons]); }
    // How far U is above the knot of component j, or its softplus.
    __device__ T over(int j, T u) const {
        const T function = max(distance(j, u), T(0));
        return is_soft(j) ? add(function, mul(softness(j), bend(bent(j, u)))) : function;
    }
    // The slopes of the softplus in U, and in the softness.
    __device__ T slope_of_softplus(int j, T u) const { return logistic(bent(j, u)); }
    __device__ T slope_in_softness(int j, T u) const {
        const T size = min(T(abs(bent(j, u))), -LOWEST<T>);  // farther away it is 0
        return bend(size) + size * logistic(-size);
    }
    __device__ T heard(int j, T u, T v) const { return is_above(j) ? over(j, u) : is_set(after, j) ? v : u; }
    // c of the next step, (34).
    __device__ void advance(T* c, T u, T v, bool spike, T tiny) const {
#pragma unroll
        for (int j = 0; j < C; ++j)
            c[j] = flush(add(add(mul(q[j], c[j]), spike ? d[j] : T(0)), mul(k[j], heard(j, u, v))), tiny);
    }
};

// Steps begin .. end of (28)-(34); begin is the first of a block. current IN: element (target, sample, t, n) at slot *
// target_pitch + sample * batch_pitch + t * step_pitch + n * unit_pitch. Target 0 is the direct current, r + 1 receptor r;
// only those whose bit of `targets` is set are there, in slots in ascending order. The direct current is there without the
// bias where add_bias is set. synapses IN (4, R, N): sigma, kappa, gain, rising gain; alpha: bits of receptors. *_now
// INOUT: the state; of (39) too, with the numbers that `draw` takes, where spikes are DRAWN. spikes OUT, IN where they are
// IMPOSED; voltage, threshold, s and z of (28) OUT or null; start_* OUT (blocks, ...) or null: the state at the start of
// each block. RECURRENT: a block of threads has a sample, and adds the recurrent terms to current INOUT (slots, B, T, N), of
// `span` steps at a time: connections IN, history IN (B, longest, N).
template <typename T, int C, int R, int ABOVE, int NOISE, int RECURRENT>
__global__ void linear_forward(
    const T* values, const T* components, const T* synapses, const int* refractory, Index after, Index above, Index soft,
    Index alpha, int mode, T* __restrict__ current, Index targets, Index target_pitch, Index batch_pitch, Index step_pitch,
    Index unit_pitch, int add_bias, unsigned first_key, unsigned second_key, unsigned layer_place, Index first_unit,
    T* voltage_now, T* components_now, T* synapses_now, T* rising_now, int* refractory_now, T* remaining_now,
    int* draws_now, Flag* __restrict__ spikes, T* __restrict__ voltage, T* __restrict__ threshold,
    T* __restrict__ synapse_trace, T* __restrict__ rising_trace, T* __restrict__ start_voltage,
    T* __restrict__ start_components, T* __restrict__ start_synapses, T* __restrict__ start_rising,
    int* __restrict__ start_refractory, const T* weights, const int* connections, int number, int span,
    const Flag* history, int longest, Index units, int neurons, int steps, int begin, int end, int block_length, T tiny) {
    const Index unit = RECURRENT ? unit_of_sample(neurons) : thread_number();
    if (unit >= units) return;
    const Place place(unit, neurons, steps);
    const LinearNeuron<T, C, ABOVE, NOISE> neuron(values, components, refractory, after, above, soft, place.n, neurons);
    current += place.sample * batch_pitch + place.n * unit_pitch;
    T sigma[room(R)], kappa[room(R)], gain[room(R)], rising[room(R)];
    T c[room(C)], s[room(R)], z[room(R)];
    Index offset[R + 1];
    // elements of component 0 and receptor 0 in arrays (B, C, N) and (B, R, N)
    const Index component = place.sample * C * neurons + place.n, receptor = place.sample * R * neurons + place.n;
#pragma unroll
    for (int j = 0; j < C; ++j) c[j] = components_now[component + (Index)j * neurons];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const Index here = (Index)r * neurons + place.n, next = (Index)R * neurons;
        sigma[r] = synapses[here];
        kappa[r] = synapses[next + here];
        gain[r] = synapses[2 * next + here];
        rising[r] = synapses[3 * next + here];
        s[r] = synapses_now[receptor + (Index)r * neurons];
        z[r] = rising_now[receptor + (Index)r * neurons];
    }
#pragma unroll
    for (int target = 0; target <= R; ++target)
        offset[target] = __popcll((unsigned long long)targets & ((1ull << target) - 1)) * target_pitch;
    T v = voltage_now[unit];
    int left = refractory_now[unit];
    T remaining = NOISE == DRAWN ? remaining_now[unit] : T(0);
    int drawn = NOISE == DRAWN ? draws_now[unit] : 0;
    Index block = begin / block_length;
    int of_block = 0;  // steps of it that are left
    const auto walk = [&](int start, int stop) {
        struct Steps {
            T i[AHEAD][R + 1];
        } given, later;
        const auto read = [&](int from, Steps& into) {
#pragma unroll
            for (int i = 0; i < AHEAD; ++i)
#pragma unroll
                for (int target = 0; target <= R; ++target)
                    into.i[i][target] = from + i < stop && is_set(targets, target)
                        ? current[offset[target] + (from + i) * step_pitch] : T(0);
        };
        read(start, given);
        for (int from = start; from < stop; from += AHEAD) {
            read(from + AHEAD, later);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const int t = from + i;
                if (t >= stop) break;
                const Index here = place.first + (Index)t * neurons;
                if (of_block == 0) {
                    if (start_voltage) {
                        start_voltage[block * units + unit] = v;
                        start_refractory[block * units + unit] = left;
#pragma unroll
                        for (int j = 0; j < C; ++j) start_components[block * C * units + component + (Index)j * neurons] = c[j];
#pragma unroll
                        for (int r = 0; r < R; ++r) {
                            start_synapses[block * R * units + receptor + (Index)r * neurons] = s[r];
                            start_rising[block * R * units + receptor + (Index)r * neurons] = z[r];
                        }
                    }
                    of_block = block_length;
                    ++block;
                }
                --of_block;
                T total = given.i[i][0];
                if (!is_set(targets, 0)) total = neuron.bias;
                else if (add_bias) total = add(neuron.bias, total);
#pragma unroll
                for (int r = 0; r < R; ++r) {  // (28), (29)
                    if (is_set(alpha, r)) {
                        s[r] = flush(mul(sigma[r], add(s[r], mul(kappa[r], z[r]))), tiny);
                        z[r] = flush(add(mul(sigma[r], z[r]), given.i[i][r + 1]), tiny);
                        total = add(add(total, mul(gain[r], s[r])), mul(rising[r], z[r]));
                    } else {
                        s[r] = flush(add(mul(sigma[r], s[r]), given.i[i][r + 1]), tiny);
                        total = add(total, mul(gain[r], s[r]));
                    }
                    if (synapse_trace) {
                        const Index of_trace = ((place.sample * R + r) * steps + t) * neurons + place.n;
                        synapse_trace[of_trace] = s[r];
                        if (is_set(alpha, r)) rising_trace[of_trace] = z[r];
                    }
                }
#pragma unroll
                for (int j = 0; j < C; ++j) total = add(total, mul(neuron.g[j], c[j]));
                const bool live = left == 0;
                const T driven = flush(add(mul(neuron.beta, v), live || mode == INTEGRATE ? total : T(0)), tiny);
                const T u = mode == HOLD && !live ? v : driven;  // (30)
                const T theta = neuron.threshold(c);
                bool spike = live && u > theta;  // (32)
                if (NOISE == IMPOSED) spike = live && spikes[here];
                if (NOISE == DRAWN) {  // (39)
                    if (live) remaining = add(remaining, -hazard_of(add(u, -theta), neuron.rate, neuron.steepness));
                    spike = live && remaining < T(0);
                    if (spike) remaining = (T)draw(first_key, second_key, layer_place, first_unit + unit, drawn++);
                }
                spikes[here] = spike;
                if (voltage) voltage[here] = u;
                if (threshold) threshold[here] = theta;
                v = neuron.after_reset(u, spike);
                neuron.advance(c, u, v, spike, tiny);
                left = spike ? neuron.period : live ? 0 : left - 1;
            }
            given = later;
        }
    };
    if (!RECURRENT) walk(begin, end);
    else for (int start = begin; start < end; start += span) {
        const int stop = min(start + span, end);
        for (int i = 0; i < number; ++i) {
            const int delay = connections[3 * i], slot = connections[3 * i + 2];
            add_recurrent(
                current + slot * target_pitch - place.n, spikes + place.first - place.n,
                history + (place.sample * longest + longest - delay) * neurons, weights + (Index)i * neurons * neurons,
                neurons, start, stop, delay);
        }
        __syncthreads();
        if (threadIdx.x < neurons) walk(start, stop);
        __syncthreads();
    }
    if (RECURRENT && threadIdx.x >= neurons) return;
    voltage_now[unit] = v;
    refractory_now[unit] = left;
    if (NOISE == DRAWN) {
        remaining_now[unit] = remaining;
        draws_now[unit] = drawn;
    }
#pragma unroll
    for (int j = 0; j < C; ++j) components_now[component + (Index)j * neurons] = c[j];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        synapses_now[receptor + (Index)r * neurons] = s[r];
        rising_now[receptor + (Index)r * neurons] = z[r];
    }
}

// sums INOUT += part, which is zero after it: in float64 once in many steps, so that long runs in float32 lose nothing.
template <typename T> __device__ __forceinline__ void add_part(double* sums, T& part) {
    *sums += part;
    part = T(0);
}

constexpr int STEPS_OF_A_SUM = 64;  // at least so many steps are summed in T, unless the run has fewer

// Steps begin .. end of (38), last first, of one receptor of a neuron of a sample. synapse_trace, rising_trace IN
// (B, R, T, N): the tape; start_synapses, start_rising IN (B, R, N): s and z before the first step of the run; grad_current
// IN: lambda_J; into_* INOUT (B, R, N): gradient of the state after the last step, then of that before the first; filtered
// OUT (B, R, T, N): lambda_i; sums INOUT (3, B, R, N): sigma, gain, rising gain.
template <typename T>
__device__ __forceinline__ void filter_back(
    Index unit, const T* synapses, Index alpha, const T* synapse_trace, const T* rising_trace,
    const T* start_synapses, const T* start_rising, const T* grad_current, T* into_synapses, T* into_rising,
    T* filtered, double* sums, Index units, int receptors, int neurons, int steps, int begin, int end,
    T tiny) {
    const Index row = unit / neurons, sample = row / receptors, next = (Index)receptors * neurons;
    const int n = (int)(unit % neurons), r = (int)(row % receptors);
    const Index of_trace = row * steps * neurons + n, of_current = sample * steps * neurons + n;
    const Index of_values = (Index)r * neurons + n;
    const T sigma = synapses[of_values], kappa = synapses[next + of_values], gain = synapses[2 * next + of_values];
    const T rising = synapses[3 * next + of_values];
    const bool is_alpha = is_set(alpha, r);
    T into_s = into_synapses[unit], into_z = into_rising[unit];
    T sum_sigma = T(0), sum_gain = T(0), sum_rising = T(0);
    int summed = 0;
    // of steps from, from - 1, ...; s and z of one more, from which the last of them came
    struct Steps {
        T current[AHEAD], s[AHEAD + 1], z[AHEAD + 1];
    } now, sooner;
    const auto read = [&](int from, Steps& into) {
#pragma unroll
        for (int i = 0; i <= AHEAD; ++i) {
            const int t = from - i;
            if (i < AHEAD) into.current[i] = t >= begin ? grad_current[of_current + (Index)t * neurons] : T(0);
            into.s[i] = t < 0 ? start_synapses[unit] : synapse_trace[of_trace + (Index)t * neurons];
            into.z[i] = !is_alpha ? T(0) : t < 0 ? start_rising[unit] : rising_trace[of_trace + (Index)t * neurons];
        }
    };
    read(end - 1, now);
    for (int from = end - 1; from >= begin; from -= AHEAD) {
        read(from - AHEAD, sooner);
        const T *current = now.current, *s = now.s, *z = now.z;
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int t = from - i;
            if (t < begin) break;
            const T lambda_s = flush(into_s + gain * current[i], tiny);
            sum_gain += current[i] * s[i];
            T lambda = lambda_s;
            if (is_alpha) {
                const T lambda_z = flush(into_z + rising * current[i], tiny);
                sum_rising += current[i] * z[i];
                // d(sigma (s + kappa z))/d(sigma), with kappa's own slope -e / sigma
                sum_sigma += lambda_s * (s[i + 1] + (kappa - T(2.718281828459045)) * z[i + 1]) + lambda_z * z[i + 1];
                into_z = flush(sigma * lambda_z + sigma * kappa * lambda_s, tiny);
                lambda = lambda_z;
            } else {
                sum_sigma += lambda_s * s[i + 1];
            }
            filtered[of_trace + (Index)t * neurons] = lambda;
            into_s = flush(sigma * lambda_s, tiny);
        }
        now = sooner;
        summed += AHEAD;
        if (summed < STEPS_OF_A_SUM && from - AHEAD >= begin) continue;
        summed = 0;
        add_part(sums + unit, sum_sigma);
        add_part(sums + units + unit, sum_gain);
        add_part(sums + 2 * units + unit, sum_rising);
    }
    into_synapses[unit] = into_s;
    into_rising[unit] = into_z;
}

// The same, one thread a unit.
template <typename T>
__global__ void synapses_adjoint(
    const T* synapses, Index alpha, const T* __restrict__ synapse_trace, const T* __restrict__ rising_trace,
    const T* start_synapses, const T* start_rising, const T* __restrict__ grad_current, T* into_synapses, T* into_rising,
    T* __restrict__ filtered, double* sums, Index units, int receptors, int neurons, int steps, int begin, int end,
    T tiny) {
    const Index unit = thread_number();
    if (unit < units)
        filter_back(
            unit, synapses, alpha, synapse_trace, rising_trace, start_synapses, start_rising, grad_current, into_synapses,
            into_rising, filtered, sums, units, receptors, neurons, steps, begin, end, tiny);
}

// Steps begin .. end of (35)-(37), last first, whole blocks. voltage, spikes, start_* IN: the tape; grad_spikes IN: lambda_S
// of (35) but for its last two terms; grad_voltage IN or null; into_voltage, into_components INOUT (B, N), (B, C, N):
// gradient of the state after the last step, then of that before the first; grad_current OUT: lambda_J; sums INOUT (7, B,
// N): beta, theta_0, bias, f, v_reset, and where spikes are stochastic the seventh, -delta (U - theta); component_sums
// INOUT (7, B, C, N): q, d, k, g, h, knot, softness; kept: scratch (L, C, B, N).
// RECURRENT: a block of threads has a sample, adds the recurrent terms to grad_spikes INOUT, of `span` steps at a time,
// and filters; transposed IN (connections, N, N): W^T of each; `number` of them, 0 where nothing goes through recurrence.
template <typename T, int C, int KIND, int ABOVE, int NOISE, int RECURRENT>
__global__ void linear_adjoint(
    const T* values, const T* components, const int* refractory, Index after, Index above, Index soft, int mode,
    const T* __restrict__ voltage, const Flag* __restrict__ spikes, const T* __restrict__ start_voltage,
    const T* __restrict__ start_components, const int* __restrict__ start_refractory,
    T* __restrict__ grad_spikes, const T* __restrict__ grad_voltage,
    T* into_voltage, T* into_components, T* __restrict__ grad_current, double* sums, double* component_sums, T* kept,
    T s0, T s1, T s2, T s3, T s4, int through_reset, int through_adaptation, const T* transposed, const int* connections,
    int number, int span, const T* synapses, Index alpha, const T* synapse_trace, const T* rising_trace,
    const T* start_synapses, const T* start_rising, T* into_synapses, T* into_rising, T* filtered, double* synapse_sums,
    int receptors, Index units, int neurons, int steps, int begin, int end, int block_length, T tiny) {
    const Index unit = RECURRENT ? unit_of_sample(neurons) : thread_number();
    if (unit >= units) return;
    const Place place(unit, neurons, steps);
    const LinearNeuron<T, C, ABOVE, NOISE> neuron(values, components, refractory, after, above, soft, place.n, neurons);
    const Index component = place.sample * C * neurons + place.n;
    T into_v = into_voltage[unit], into_c[room(C)];
#pragma unroll
    for (int j = 0; j < C; ++j) into_c[j] = into_components[component + (Index)j * neurons];
    // registers are for components, or for steps ahead
    constexpr int DEPTH = C * sizeof(T) <= 16 ? AHEAD : ABOVE || C * sizeof(T) > 24 ? AHEAD / 4 : AHEAD / 2;
    const auto walk = [&](int first, int last) {
        T sum[5] = {}, sum_of[5][room(C)] = {}, sum_of_distance = T(0);
        int summed = 0;
        for (int start = (last - 1) / block_length * block_length; start >= first; start -= block_length) {
            const int stop = min(start + block_length, last);
            const Index block = start / block_length, at_start = block * units + unit;
            const int live_from = start + start_refractory[at_start];
            // what the tape does not hold: the components, and when the neuron spiked
            T c[room(C)];
#pragma unroll
            for (int j = 0; j < C; ++j) c[j] = start_components[block * C * units + component + (Index)j * neurons];
            int spiked_at = stop;
            struct {
                T u[DEPTH];
                Flag fired[DEPTH];
            } here, later;
            const auto look = [&](int from, auto& into) {
#pragma unroll
                for (int i = 0; i < DEPTH; ++i) {
                    const Index at = place.first + (Index)(from + i) * neurons;
                    into.u[i] = C > 0 && from + i < stop ? voltage[at] : T(0);
                    into.fired[i] = from + i < stop ? spikes[at] : 0;
                }
            };
            look(start, here);
            for (int from = start; from < stop; from += DEPTH) {
                look(from + DEPTH, later);
#pragma unroll
                for (int i = 0; i < DEPTH; ++i) {
                    const int t = from + i;
                    if (t >= stop) break;
                    const bool spike = here.fired[i];
                    if (spike) spiked_at = t;
#pragma unroll
                    for (int j = 0; j < C; ++j) kept[((Index)(t - start) * C + j) * units + unit] = c[j];
                    neuron.advance(c, here.u[i], neuron.after_reset(here.u[i], spike), spike, tiny);
                }
                here = later;
            }
            // of steps from, from - 1, ...; the potential of one more, which hands it on
            struct Steps {
                T u[DEPTH + 1], grad_s[DEPTH], grad_v[DEPTH], c[DEPTH][room(C)];
            } now, sooner;
            const auto read = [&](int from, Steps& into) {
#pragma unroll
                for (int i = 0; i <= DEPTH; ++i) {
                    const bool there = from - i >= start;
                    const Index at = place.first + (Index)(from - i) * neurons;
                    into.u[i] = there ? voltage[at] : T(0);
                    if (i < DEPTH) {
                        into.grad_s[i] = there ? grad_spikes[at] : T(0);
                        into.grad_v[i] = there && grad_voltage ? grad_voltage[at] : T(0);
#pragma unroll
                        for (int j = 0; j < C; ++j)
                            into.c[i][j] = there ? kept[((Index)(from - i - start) * C + j) * units + unit] : T(0);
                    }
                }
            };
            const T before_block = start_voltage[at_start];
            read(stop - 1, now);
            for (int from = stop - 1; from >= start; from -= DEPTH) {
                read(from - DEPTH, sooner);
#pragma unroll
                for (int i = 0; i < DEPTH; ++i) {
                    const int t = from - i;
                    if (t < start) break;
                    const T u = now.u[i];
                    const T* of_step = now.c[i];
                    const bool spike = t == spiked_at, live = t >= live_from && t <= spiked_at;
                    const bool moved = live || mode == INTEGRATE, held = mode == HOLD && !live;
                    const T handed = t == start ? before_block : neuron.after_reset(now.u[i + 1], t - 1 == spiked_at);
#pragma unroll
                    for (int j = 0; j < C; ++j)
                        if (is_set(after, j)) into_v += neuron.k[j] * into_c[j];
                    const T m = u - neuron.threshold(of_step);
                    T slope = T(0);
                    if (live && KIND == HAZARD) slope = hazard_slope(m, neuron.rate, neuron.steepness);
                    else if (live) slope = slope_of<T, KIND>(m, s0, s1, s2, s3, s4);
                    T lambda_s = now.grad_s[i];  // (35)
                    if (through_adaptation) {
#pragma unroll
                        for (int j = 0; j < C; ++j) lambda_s += neuron.d[j] * into_c[j];
                    }
                    if (through_reset) lambda_s += ((neuron.factor - T(1)) * u + neuron.reset) * into_v;
                    const T delta = slope * lambda_s;
                    T lambda_u = now.grad_v[i] + delta + (spike ? neuron.factor * into_v : into_v);  // (36)
#pragma unroll
                    for (int j = 0; j < C; ++j) {
                        if (is_set(after, j) || (neuron.is_above(j) && neuron.over(j, u) == T(0))) continue;
                        T through = neuron.k[j] * into_c[j];
                        // few have a knot or a softness: no registers for their sums
                        if (neuron.is_soft(j)) {
                            component_sums[6 * C * units + component + (Index)j * neurons] +=
                                neuron.slope_in_softness(j, u) * through;
                            through *= neuron.slope_of_softplus(j, u);
                        }
                        lambda_u += through;
                        if (neuron.is_above(j))
                            component_sums[5 * C * units + component + (Index)j * neurons] -= through;
                    }
                    lambda_u = flush(lambda_u, tiny);
                    const T lambda_j = moved ? lambda_u : T(0);
                    grad_current[place.first + (Index)t * neurons] = lambda_j;
                    sum[0] += held ? T(0) : lambda_u * handed;
                    sum[1] -= delta;
                    if (NOISE) sum_of_distance -= delta * m;
                    sum[2] += lambda_j;
                    if (spike) {
                        sum[3] += into_v * u;
                        sum[4] += into_v;
                    }
                    const T v = neuron.after_reset(u, spike);
#pragma unroll
                    for (int j = 0; j < C; ++j) {
                        sum_of[0][j] += into_c[j] * of_step[j];
                        if (spike) sum_of[1][j] += into_c[j];
                        sum_of[2][j] += into_c[j] * neuron.heard(j, u, v);
                        sum_of[3][j] += lambda_j * of_step[j];
                        sum_of[4][j] -= delta * of_step[j];
                        into_c[j] = flush(neuron.q[j] * into_c[j] - neuron.h[j] * delta + neuron.g[j] * lambda_j, tiny);  // (37)
                    }
                    into_v = held ? lambda_u : flush(neuron.beta * lambda_u, tiny);
                }
                now = sooner;
            }
            summed += stop - start;
            if (summed < STEPS_OF_A_SUM && start > first) continue;
            summed = 0;
            if (NOISE) add_part(sums + 6 * units + unit, sum_of_distance);
#pragma unroll
            for (int i = 0; i < 5; ++i) {
                add_part(sums + i * units + unit, sum[i]);
#pragma unroll
                for (int j = 0; j < C; ++j)
                    add_part(component_sums + i * C * units + component + (Index)j * neurons, sum_of[i][j]);
            }
        }
    };
    if (!RECURRENT) walk(begin, end);
    else for (int start = (end - 1) / span * span; start >= begin; start -= span) {
        const int stop = min(start + span, end);
        for (int i = 0; i < number; ++i) {
            const int delay = connections[3 * i], target = connections[3 * i + 1];
            const T* above = target == 0 ? grad_current + place.first - place.n
                                         : filtered + (place.sample * receptors + target - 1) * steps * neurons;
            add_recurrent_gradient(
                grad_spikes + place.first - place.n, above, transposed + (Index)i * neurons * neurons, neurons, start,
                min(stop, steps - delay), delay, 0);
        }
        __syncthreads();
        if (threadIdx.x < neurons) walk(start, stop);
        __syncthreads();
        const int of_sample = receptors * neurons;
        for (int i = threadIdx.x; i < of_sample; i += blockDim.x)
            filter_back(
                place.sample * of_sample + i, synapses, alpha, synapse_trace, rising_trace, start_synapses, start_rising,
                grad_current, into_synapses, into_rising, filtered, synapse_sums, units * receptors, receptors, neurons, steps,
                start, stop, tiny);
        __syncthreads();
    }
    if (RECURRENT && threadIdx.x >= neurons) return;
    into_voltage[unit] = into_v;
#pragma unroll
    for (int j = 0; j < C; ++j) into_components[component + (Index)j * neurons] = into_c[j];
}
