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
// before the first step, history IN (B, latency, K): (2) for spikes as bytes, flags or (COUNTS) how many. blockIdx.x: sample
// * rows + step; blockIdx.y and threads: neurons.
template <typename T, int COUNTS>
__global__ void add_spikes(
    const Flag* spikes, const Flag* history, const T* weights, T* out, int inputs, int neurons, int steps, int begin,
    int rows, int latency) {
    const int sample = blockIdx.x / rows, t = begin + blockIdx.x % rows, ago = t - latency;
    const int n = blockIdx.y * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    const Flag* fired = ago < 0 ? history + ((Index)sample * latency + latency + ago) * inputs
                                : spikes + ((Index)sample * steps + ago) * inputs;
    const Index here = ((Index)sample * steps + t) * neurons + n;
    T total[] = {n < neurons ? out[here] : T(0)};
    add_weights<T, COUNTS>(total, fired, inputs, lane, [&](int k, int) {
        return n < neurons ? weights[(Index)k * neurons + n] : T(0);
    });
    if (n < neurons) out[here] = total[0];
}

// out INOUT (rows, N) += S weights, spikes IN (rows, K), weights IN (K, N): the same for a whole input, (2). A block of
// threads has the weights of `part` inputs to SUMS * 32 neurons in shared memory (part, SUMS * 32), which all its rows read,
// one part of the inputs after another; a warp has a row. blockIdx.x: a share of the rows; blockIdx.y: neurons.
template <typename T, int COUNTS, int SUMS>
__global__ void __launch_bounds__(1024) add_input(
    const Flag* __restrict__ spikes, const T* weights, T* out, int inputs, int neurons, Index rows, int part) {
    extern __shared__ double shared[];
    T* slice = (T*)shared;
    constexpr int ACROSS = 32 * SUMS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, first = blockIdx.y * ACROSS;
    for (int from = 0; from < inputs; from += part) {
        const int size = min(part, inputs - from);
        for (int i = threadIdx.x; i < size * ACROSS; i += blockDim.x) {
            const int n = first + i % ACROSS;
            slice[i] = n < neurons ? weights[(Index)(from + i / ACROSS) * neurons + n] : T(0);
        }
        __syncthreads();
        for (Index row = (Index)blockIdx.x * warps + warp; row < rows; row += (Index)gridDim.x * warps) {
            T* here = out + row * neurons + first + lane;
            T total[SUMS];
#pragma unroll
            for (int j = 0; j < SUMS; ++j) total[j] = first + lane + 32 * j < neurons ? here[32 * j] : T(0);
            add_weights<T, COUNTS>(total, spikes + row * inputs + from, size, lane, [&](int k, int j) {
                return slice[k * ACROSS + lane + 32 * j];
            });
#pragma unroll
            for (int j = 0; j < SUMS; ++j)
                if (first + lane + 32 * j < neurons) here[32 * j] = total[j];
        }
        __syncthreads();
    }
}

// A bfloat16 is the first half of a float.
typedef unsigned short Bfloat;
__device__ __forceinline__ Bfloat first_half(float x) { return (Bfloat)(__float_as_uint(x) >> 16); }

constexpr int EACH = 8;  // elements of a thread of the two kernels that follow

// out OUT (elements,): flags or counts as bfloat16, which has room for all of a byte's.
__global__ void bytes_as_bfloat(const Flag* __restrict__ spikes, Bfloat* __restrict__ out, Index elements) {
    const Index first = (Index)blockIdx.x * blockDim.x * EACH + threadIdx.x;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const Index here = first + i * blockDim.x;
        if (here < elements) out[here] = first_half((float)spikes[here]);
    }
}

// out OUT (rows, 3 N): each number x IN (rows, N) as a sum of three of bfloat16, exactly: 8 bits in each. blockIdx.x: EACH
// rows; blockIdx.y and threads: neurons.
__global__ void floats_in_thirds(const float* __restrict__ x, Bfloat* __restrict__ out, Index rows, int neurons) {
    const int n = blockIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const Index row = (Index)blockIdx.x * EACH + i;
        if (row >= rows || n >= neurons) return;
        float rest = x[row * neurons + n];
        Bfloat* into = out + row * 3 * neurons + n;
#pragma unroll
        for (int third = 0; third < 3; ++third) {
            into[third * neurons] = first_half(rest);
            rest -= __uint_as_float(__float_as_uint(rest) & 0xffff0000u);
        }
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
