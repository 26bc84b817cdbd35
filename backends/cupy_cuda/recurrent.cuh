// Spikes that act through weights, and recurrent connections within a launch: a block of threads has a whole sample, whose
// neurons need no other. It computes what a stretch of blocks of time needs of the spikes before it, or of the gradients
// after it, meets at a barrier, and goes on to the dynamics of that stretch, a thread a neuron.

// The most threads of a block that has a sample, backward: those that there are registers for; half as many more forward.
// FAMILY: of the linear family's, each way.
template <typename T> constexpr int together() { return sizeof(T) == 4 ? 512 : 256; }
constexpr int FAMILY = 256;

// The unit of this thread in the sample of its block. Threads beyond the last neuron read the last one's; it is not theirs.
__device__ __forceinline__ Index unit_of_sample(int neurons) {
    return (Index)blockIdx.x * neurons + min((int)threadIdx.x, neurons - 1);
}

constexpr int CHUNK = 8;  // flags that a lane reads at a time, 32 inputs apart: one wait for them all
constexpr int WIDE = 4;   // neurons of a lane, 32 apart

// total[i] += weight_of(k, i) for each spike of a row, in ascending order of k, as often as it spiked (COUNTS): (2). fired
// IN (inputs,): flags or (COUNTS) how many. All lanes of a warp: a vote needs every one.
template <typename T, int COUNTS, int SUMS, typename Weight>
__device__ __forceinline__ void add_weights(
    T (&total)[SUMS], const Flag* fired, int inputs, int lane, const Weight& weight_of) {
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
                T weight[SUMS];
#pragma unroll
                for (int j = 0; j < SUMS; ++j) weight[j] = weight_of(from + 32 * i + source, j);
                const int times = COUNTS ? __shfl_sync(0xffffffffu, (int)flags[i], source) : 1;
                for (int left = times; left > 0; --left)
#pragma unroll
                    for (int j = 0; j < SUMS; ++j) total[j] = add(total[j], weight[j]);
            }
        }
    }
}

// current INOUT (T, N) += S[t - latency] weights for steps begin .. end of one sample, weights IN (N, N), spikes IN (T, N)
// or, before the first step, history IN (latency, N): the recurrent term of (2). A warp has a step of WIDE * 32 neurons.
template <typename T>
__device__ void add_recurrent(
    T* current, const Flag* spikes, const Flag* history, const T* weights, int neurons, int begin, int end, int latency) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32, slices = (neurons + 32 * WIDE - 1) / (32 * WIDE);
    for (int item = threadIdx.x / 32; item < (end - begin) * slices; item += warps) {
        const int t = begin + item / slices, ago = t - latency, n = item % slices * (32 * WIDE) + lane;
        const Flag* fired = ago < 0 ? history + (Index)(latency + ago) * neurons : spikes + (Index)ago * neurons;
        T* here = current + (Index)t * neurons;
        T total[WIDE];
#pragma unroll
        for (int j = 0; j < WIDE; ++j) total[j] = n + 32 * j < neurons ? here[n + 32 * j] : T(0);
        add_weights<T, 0>(total, fired, neurons, lane, [&](int k, int j) {
            return n + 32 * j < neurons ? weights[(Index)k * neurons + n + 32 * j] : T(0);
        });
#pragma unroll
        for (int j = 0; j < WIDE; ++j)
            if (n + 32 * j < neurons) here[n + 32 * j] = total[j];
    }
}

// lambda_s INOUT (T, N) += lambda_I[t + latency] W^T for steps begin .. end of one sample, grad_current IN (T, N),
// transposed IN: W^T (N, N): the recurrent term of (7). A warp has STEPS steps of WIDE * 32 neurons: each number that is read
// serves several products, for it is reading that takes the time. The first `busy` warps have something else to do
// meanwhile, unless there are no others.
template <typename T>
__device__ void add_recurrent_gradient(
    T* lambda_s, const T* grad_current, const T* transposed, int neurons, int begin, int end, int latency, int busy) {
    constexpr int STEPS = 4;
    alignas(16) __shared__ T read[together<T>() / 32][STEPS][32];
    const int lane = threadIdx.x % 32, slices = (neurons + 32 * WIDE - 1) / (32 * WIDE), all = blockDim.x / 32;
    const int warps = all > busy ? all - busy : all, warp = threadIdx.x / 32 - (all - warps);
    if (warp < 0) return;
    for (int item = warp; item < (end - begin + STEPS - 1) / STEPS * slices; item += warps) {
        const int first = begin + item / slices * STEPS, n = item % slices * (32 * WIDE) + lane;
        T total[STEPS][WIDE] = {};
        for (int from = 0; from < neurons; from += 32) {
#pragma unroll
            for (int i = 0; i < STEPS; ++i)
                read[warp][i][lane] = first + i < end && from + lane < neurons
                    ? grad_current[(Index)(first + i + latency) * neurons + from + lane] : T(0);
            __syncwarp();
#pragma unroll 4
            for (int k = 0; k < 32; ++k) {
                T weight[WIDE];
#pragma unroll
                for (int j = 0; j < WIDE; ++j)
                    weight[j] = n + 32 * j < neurons && from + k < neurons
                        ? transposed[(Index)(from + k) * neurons + n + 32 * j] : T(0);
#pragma unroll
                for (int i = 0; i < STEPS; ++i)
#pragma unroll
                    for (int j = 0; j < WIDE; ++j) total[i][j] += weight[j] * read[warp][i][k];
            }
            __syncwarp();
        }
#pragma unroll
        for (int i = 0; i < STEPS; ++i)
#pragma unroll
            for (int j = 0; j < WIDE; ++j)
                if (first + i < end && n + 32 * j < neurons) lambda_s[(Index)(first + i) * neurons + n + 32 * j] += total[i][j];
    }
}
