// Currents from spikes, equation (2), and the weight gradient of events, (11).

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
// before the first step, history IN (B, latency, K): (2) for spikes as bytes, flags or (COUNTS) how many. A warp reads 32
// at once, and adds the rows of those that are set, in ascending order, as often as each spiked. blockIdx.x: sample * rows
// + step; blockIdx.y and threads: neurons.
template <typename T, int COUNTS>
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
            const T weight = n < neurons ? weights[(Index)source * neurons + n] : T(0);
            for (int left = COUNTS ? fired[source] : 1; left > 0; --left) total = add(total, weight);
        }
    }
    if (n < neurons) out[here] = total;
}

// out INOUT (rows, N) += S weights, spikes IN (rows, K), weights IN (K, N): the same for a whole input, (2). A block of
// threads holds the weights to 32 neurons, which all its rows read, in shared memory (K, 32); a warp has a row, a lane a
// neuron. blockIdx.x: a share of the rows; blockIdx.y: 32 neurons.
template <typename T, int COUNTS>
__global__ void __launch_bounds__(1024) add_input(const Flag* __restrict__ spikes, const T* weights, T* out, int inputs, int neurons, Index rows) {
    extern __shared__ double shared[];
    T* slice = (T*)shared;
    constexpr int CHUNK = 8;  // flags that a lane reads at a time, 32 inputs apart: one wait for them all
    const int lane = threadIdx.x % 32, n = blockIdx.y * 32 + lane, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int k = warp; k < inputs; k += warps) slice[k * 32 + lane] = n < neurons ? weights[(Index)k * neurons + n] : T(0);
    __syncthreads();
    for (Index row = (Index)blockIdx.x * warps + warp; row < rows; row += (Index)gridDim.x * warps) {
        const Flag* fired = spikes + row * inputs;
        T total = n < neurons ? out[row * neurons + n] : T(0);
        for (int from = 0; from < inputs; from += 32 * CHUNK) {
            Flag flags[CHUNK];
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) {
                const int k = from + 32 * i + lane;
                flags[i] = k < inputs ? fired[k] : 0;
            }
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) {
                unsigned set = __ballot_sync(0xffffffffu, flags[i]);
                while (set) {
                    const int source = __ffs(set) - 1;
                    set &= set - 1;
                    const T weight = slice[(from + 32 * i + source) * 32 + lane];
                    const int times = COUNTS ? __shfl_sync(0xffffffffu, (int)flags[i], source) : 1;
                    for (int left = times; left > 0; --left) total = add(total, weight);
                }
            }
        }
        if (n < neurons) out[row * neurons + n] = total;
    }
}

// row_of OUT: the row of each event.
__global__ void rows_of_events(const Index* indptr, Index rows, Index* row_of) {
    const Index row = thread_number();
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
