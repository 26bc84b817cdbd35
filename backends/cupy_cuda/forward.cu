// Dynamics forward in time, equations (1)-(6), and the leaky filter of (18): one thread a unit.

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
    const Index unit = thread_number();
    if (unit >= units) return;
    const Place place(unit, neurons, steps);
    const Neuron<T> neuron(values, refractory, place.n, neurons);
    current += place.sample * batch_pitch + place.n * unit_pitch;
    const Index first = place.first;
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
