// Dynamics forward in time, equations (1)-(6), and the leaky filter of (18): one thread a unit.

// Steps begin .. end of (1)-(6). voltage_now, adaptation_now, refractory_now INOUT (B, N): the state; spikes OUT; voltage,
// threshold, free_voltage OUT or null, the last that of each block as if it did not spike; start_* OUT (blocks, B, N) or
// null: the state at the start of each block. current IN: element (sample, t, n) at sample * batch_pitch + t * step_pitch
// + n * unit_pitch, without bias where add_bias is set. RECURRENT: a block of threads has a sample, and adds the recurrent
// term to current INOUT (B, T, N); weights IN (N, N), history IN (B, latency, N).
template <typename T, int RECURRENT>
__global__ void __launch_bounds__(together<T>() + together<T>() / 2, 1) forward(
    const T* values, const int* refractory, T* __restrict__ current, Index batch_pitch, Index step_pitch,
    Index unit_pitch, int add_bias, T* voltage_now, T* adaptation_now, int* refractory_now, Flag* __restrict__ spikes,
    T* __restrict__ voltage, T* __restrict__ threshold, T* __restrict__ free_voltage, T* __restrict__ start_voltage,
    T* __restrict__ start_adaptation, int* __restrict__ start_refractory, const T* weights, const Flag* history, int latency,
    Index units, int neurons, int steps, int begin, int end, int block_length, T tiny) {
    const Index unit = RECURRENT ? unit_of_sample(neurons) : thread_number();
    if (unit >= units) return;
    const Place place(unit, neurons, steps);
    const Neuron<T> neuron(values, refractory, place.n, neurons);
    current += place.sample * batch_pitch + place.n * unit_pitch;
    const Index first = place.first;
    T v = voltage_now[unit], a = adaptation_now[unit], u = v;
    int left = refractory_now[unit], free_left = left;
    Index block = begin / block_length;
    int of_block = 0;  // steps of it that are left
    const auto walk = [&](int start, int stop) {
        T given[AHEAD], later[AHEAD];
        const auto read = [&](int from, T* into) {
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) into[i] = from + i < stop ? current[(from + i) * step_pitch] : T(0);
        };
        read(start, given);
        for (int from = start; from < stop; from += AHEAD) {
            read(from + AHEAD, later);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (from + i >= stop) break;
                const Index here = first + (Index)(from + i) * neurons;
                if (of_block == 0) {
                    if (start_voltage) {
                        start_voltage[block * units + unit] = v;
                        start_adaptation[block * units + unit] = a;
                        start_refractory[block * units + unit] = left;
                    }
                    u = v;
                    free_left = left;
                    of_block = block_length;
                    ++block;
                }
                --of_block;
                const bool live = left == 0;                                       // (1)
                const T input = add_bias ? add(neuron.bias, given[i]) : given[i];  // (2)
                v = flush(add(mul(neuron.beta, v), live ? input : T(0)), tiny);    // (3)
                const T theta = add(neuron.theta, mul(neuron.b, a));               // (4)
                const bool spike = live && v > theta;                              // (5)
                spikes[here] = spike;
                if (voltage) voltage[here] = v;
                if (threshold) threshold[here] = theta;
                if (free_voltage) {
                    u = flush(add(mul(neuron.beta, u), free_left == 0 ? input : T(0)), tiny);
                    free_left = free_left > 0 ? free_left - 1 : 0;
                    free_voltage[here] = u;
                }
                if (spike) v = T(0);
                a = flush(add(mul(neuron.p, a), spike ? T(1) : T(0)), tiny);       // (6)
                left = spike ? neuron.period : live ? 0 : left - 1;
            }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) given[i] = later[i];
        }
    };
    if (!RECURRENT) walk(begin, end);
    else for (int start = begin; start < end; start += block_length) {
        const int stop = min(start + block_length, end);
        add_recurrent(
            current - place.n, spikes + first - place.n, history + place.sample * latency * neurons, weights, neurons, start,
            stop, latency);
        __syncthreads();
        if (threadIdx.x < neurons) walk(start, stop);
        __syncthreads();
    }
    if (RECURRENT && threadIdx.x >= neurons) return;
    voltage_now[unit] = v;
    adaptation_now[unit] = a;
    refractory_now[unit] = left;
}

// y OUT, x IN (B, T, N): (18), forward or backward in time.
template <typename T>
__global__ void leaky_filter(const T* x, T* y, T decay, int reverse, Index units, int neurons, int steps, T tiny) {
    const Index unit = thread_number();
    if (unit >= units) return;
    const Index first = Place(unit, neurons, steps).first;
    T total = T(0);
    for (int step = 0; step < steps; ++step) {
        const Index here = first + (Index)(reverse ? steps - 1 - step : step) * neurons;
        total = flush(decay * total + x[here], tiny);
        y[here] = total;
    }
}
