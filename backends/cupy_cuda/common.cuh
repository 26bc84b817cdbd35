// What every kernel of the CuPy backend shares. kernels.py joins the files of this folder into one text, in its order.
//
// Equations are those of docs/model.md and docs/adjoint.md. Arrays are (B, T, N), C-contiguous; a thread of the dynamics
// has one neuron of one sample, its unit = sample * N + n, and walks through time with its state in registers, so that
// neighbouring threads read neighbouring addresses. Kernels check nothing and allocate nothing. Nothing is summed by
// atomics: every run repeats its own bits.

typedef long long Index;
typedef unsigned char Flag;  // bool arrays

// Multiply, then add, never in one rounding: potentials and adaptations are the CPU's, bit for bit.
__device__ __forceinline__ float mul(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ float add(float x, float y) { return __fadd_rn(x, y); }
__device__ __forceinline__ double mul(double x, double y) { return __dmul_rn(x, y); }
__device__ __forceinline__ double add(double x, double y) { return __dadd_rn(x, y); }

// What is too small to matter is zero, in every backend.
template <typename T> __device__ __forceinline__ T flush(T x, T tiny) { return x < tiny && x > -tiny ? T(0) : x; }

// Arrays are read so many steps at a time, and the next steps' before these are computed: a wait for memory takes as long
// as the arithmetic of several steps.
constexpr int AHEAD = 4;

// The number of this thread in its launch.
__device__ __forceinline__ Index thread_number() { return (Index)blockIdx.x * blockDim.x + threadIdx.x; }

// A unit's neuron n and sample, and its element of step 0 in an array (B, T, N).
struct Place {
    Index sample, first;
    int n;
    __device__ Place(Index unit, int neurons, int steps)
        : sample(unit / neurons), first(sample * steps * neurons + unit % neurons), n((int)(unit % neurons)) {}
};

// Parameters of one neuron; values IN (5, N): beta, p, b, theta_0, bias.
template <typename T> struct Neuron {
    T beta, p, b, theta, bias;
    int period;
    __device__ Neuron(const T* values, const int* refractory, int n, int neurons)
        : beta(values[n]), p(values[neurons + n]), b(values[2 * neurons + n]), theta(values[3 * neurons + n]),
          bias(values[4 * neurons + n]), period(refractory[n]) {}
};

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
