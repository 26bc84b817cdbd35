// Dynamics backward in time, equations (7)-(17): one thread a unit.

// Steps begin .. end of (7)-(12), last first, whole blocks. voltage, spikes, start_* IN: the tape; grad_spikes IN: lambda_S
// of (7) but for its last two terms; grad_voltage IN or null; into_voltage, into_adaptation INOUT (B, N): gradient of the
// state after the last step, then of that before the first; grad_current OUT; sums INOUT (5, B, N): beta, p, b, theta_0,
// bias; adaptation: scratch (L, B, N). RECURRENT: a block of threads has a sample, and adds the recurrent term to
// grad_spikes INOUT; transposed IN (N, N): W^T, or null where nothing goes through recurrence.
template <typename T, int KIND, int RECURRENT>
__global__ void __launch_bounds__(together<T>(), 1) adjoint(
    const T* values, const int* refractory, const T* __restrict__ voltage, const Flag* __restrict__ spikes,
    const T* __restrict__ start_voltage, const T* __restrict__ start_adaptation, const int* __restrict__ start_refractory,
    T* __restrict__ grad_spikes, const T* __restrict__ grad_voltage, T* into_voltage, T* into_adaptation,
    T* __restrict__ grad_current, double* sums, T* __restrict__ adaptation, T s0, T s1, T s2, T s3, T s4, int through_reset,
    int through_adaptation, const T* transposed, int latency, Index units, int neurons, int steps, int begin, int end,
    int block_length, T tiny) {
    const Index unit = RECURRENT ? unit_of_sample(neurons) : thread_number();
    if (unit >= units) return;
    const Place place(unit, neurons, steps);
    const Neuron<T> neuron(values, refractory, place.n, neurons);
    const Index first = place.first;
    const bool mine = !RECURRENT || threadIdx.x < neurons;
    T into_v = into_voltage[unit], into_a = into_adaptation[unit];
    double sum_beta = 0, sum_p = 0, sum_b = 0, sum_theta = 0, sum_bias = 0;
    for (int block = (end - 1) / block_length; block * block_length >= begin; --block) {
        const int start = block * block_length, stop = min(start + block_length, end);
        const Index at_start = (Index)block * units + unit;
        const int live_from = start + start_refractory[at_start];
        // what the tape does not hold: adaptation, and when the neuron spiked
        T a = start_adaptation[at_start];
        int spiked_at = stop;
        if (mine) {
            Flag fired[AHEAD], fired_later[AHEAD];
            const auto read_spikes = [&](int from, Flag* into) {
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) into[i] = from + i < stop ? spikes[first + (Index)(from + i) * neurons] : 0;
            };
            read_spikes(start, fired);
            for (int from = start; from < stop; from += AHEAD) {
                read_spikes(from + AHEAD, fired_later);
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    if (from + i >= stop) break;
                    adaptation[(from + i - start) * units + unit] = a;
                    if (fired[i]) spiked_at = from + i;
                    a = flush(add(mul(neuron.p, a), fired[i] ? T(1) : T(0)), tiny);
                }
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) fired[i] = fired_later[i];
            }
        }
        if (RECURRENT) {
            if (transposed)
                add_recurrent_gradient(
                    grad_spikes + first - place.n, grad_current + first - place.n, transposed, neurons, start,
                    min(stop, steps - latency), latency, (neurons + 31) / 32);
            __syncthreads();
        }
        if (mine) {
            // of steps from, from - 1, ...; the potential of one more, which hands it on
            struct Steps {
                T v[AHEAD + 1], a[AHEAD], grad_s[AHEAD], grad_v[AHEAD];
            } now, sooner;
            const auto read = [&](int from, Steps& into) {
#pragma unroll
                for (int i = 0; i <= AHEAD; ++i) {
                    const bool there = from - i >= start;
                    const Index here = first + (Index)(from - i) * neurons;
                    into.v[i] = there ? voltage[here] : T(0);
                    if (i < AHEAD) {
                        into.a[i] = there ? adaptation[(from - i - start) * units + unit] : T(0);
                        into.grad_s[i] = there ? grad_spikes[here] : T(0);
                        into.grad_v[i] = there && grad_voltage ? grad_voltage[here] : T(0);
                    }
                }
            };
            const T before = start_voltage[at_start];
            T of_beta = T(0), of_p = T(0), of_b = T(0), of_theta = T(0), of_bias = T(0);
            read(stop - 1, now);
            for (int from = stop - 1; from >= start; from -= AHEAD) {
                read(from - AHEAD, sooner);
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    const int t = from - i;
                    if (t < start) break;
                    const T v = now.v[i];
                    a = now.a[i];
                    const bool live = t >= live_from && t <= spiked_at;
                    const T m = v - add(neuron.theta, mul(neuron.b, a));
                    const T slope = live ? slope_of<T, KIND>(m, s0, s1, s2, s3, s4) : T(0);
                    T lambda_s = now.grad_s[i];  // (7)
                    if (through_adaptation) lambda_s += into_a;
                    if (through_reset) lambda_s -= v * into_v;
                    const T delta = slope * lambda_s;                                         // (8)
                    T lambda_v = delta + (t == spiked_at ? T(0) : into_v) + now.grad_v[i];    // (9)
                    lambda_v = flush(lambda_v, tiny);
                    const T current = live ? lambda_v : T(0);                                 // (11)
                    grad_current[first + (Index)t * neurons] = current;
                    const T handed = t == start ? before : t - 1 == spiked_at ? T(0) : now.v[i + 1];
                    of_bias += current;
                    of_beta += lambda_v * handed;  // (12)
                    of_p += into_a * a;
                    of_b -= delta * a;
                    of_theta -= delta;
                    into_a = flush(neuron.p * into_a - neuron.b * delta, tiny);  // (10)
                    into_v = flush(neuron.beta * lambda_v, tiny);
                }
                now = sooner;
            }
            sum_beta += of_beta;  // in float64 once a block
            sum_p += of_p;
            sum_b += of_b;
            sum_theta += of_theta;
            sum_bias += of_bias;
        }
        if (RECURRENT) __syncthreads();
    }
    if (!mine) return;
    into_voltage[unit] = into_v;
    into_adaptation[unit] = into_a;
    add_sums(sums, units, unit, sum_beta, sum_p, sum_b, sum_theta, sum_bias);
}

// The paper's gradient, (14)-(17); voltage IN: u of each block, as if it did not spike; adaptation: scratch (2 L, B, N);
// all else as above.
template <typename T, int KIND, int RECURRENT>
__global__ void __launch_bounds__(together<T>(), 1) adjoint_of_paper(
    const T* values, const int* refractory, const T* voltage, const Flag* spikes, const T* start_voltage,
    const T* start_adaptation, const int* start_refractory, T* grad_spikes, const T* grad_voltage, T* into_voltage,
    T* into_adaptation, T* grad_current, double* sums, T* adaptation, T s0, T s1, T s2, T s3, T s4, int through_reset,
    int through_adaptation, const T* transposed, int latency, Index units, int neurons, int steps, int begin, int end,
    int block_length, T tiny) {
    const Index unit = RECURRENT ? unit_of_sample(neurons) : thread_number();
    if (unit >= units) return;
    const Place place(unit, neurons, steps);
    const Neuron<T> neuron(values, refractory, place.n, neurons);
    const Index first = place.first;
    const bool mine = !RECURRENT || threadIdx.x < neurons;
    T handed_v = into_voltage[unit], into_a = into_adaptation[unit];
    double sum_beta = 0, sum_p = 0, sum_b = 0, sum_theta = 0, sum_bias = 0;
    for (int block = (end - 1) / block_length; block * block_length >= begin; --block) {
        const int start = block * block_length, stop = min(start + block_length, end);
        const Index at_start = (Index)block * units + unit;
        const int live_from = start + start_refractory[at_start];
        T a = start_adaptation[at_start], free_a = a;
        int spiked_at = stop;
        if (mine) {
            for (int t = start; t < stop; ++t) {
                adaptation[2 * (t - start) * units + unit] = a;
                adaptation[(2 * (t - start) + 1) * units + unit] = free_a;
                const bool spike = spikes[first + (Index)t * neurons];
                if (spike) spiked_at = t;
                a = flush(add(mul(neuron.p, a), spike ? T(1) : T(0)), tiny);
                free_a = flush(mul(neuron.p, free_a), tiny);
            }
        }
        if (RECURRENT) {
            if (transposed)
                add_recurrent_gradient(
                    grad_spikes + first - place.n, grad_current + first - place.n, transposed, neurons, start,
                    min(stop, steps - latency), latency, (neurons + 31) / 32);
            __syncthreads();
        }
        if (mine) {
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
        if (RECURRENT) __syncthreads();
    }
    if (!mine) return;
    into_voltage[unit] = handed_v;
    into_adaptation[unit] = into_a;
    add_sums(sums, units, unit, sum_beta, sum_p, sum_b, sum_theta, sum_bias);
}
