#include "kernels_cpu.hpp"

#include <bit>
#include <cmath>
#include <limits>

namespace idistill::model::cpu {
namespace {

// exp to 2 ulp by range reduction to [-ln2/2, ln2/2] and a degree-6 polynomial; NaN stays NaN, below -87 it is 0, above
// 88 infinite.
inline float fast_exp(float x) {
    const float clamped_high = x > 88.0F ? 88.0F : x;
    const float clamped = clamped_high < -87.0F ? -87.0F : clamped_high;
    constexpr float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
    const float shifted = clamped * 1.44269504088896341F + magic;
    const float n = shifted - magic;
    const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
    float p = 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1.0F;
    const auto exponent = (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(magic) + 127U) << 23U;
    const float value = p * std::bit_cast<float>(exponent);
    const float finite_below = x < -87.0F ? 0.0F : value;
    return x > 88.0F ? std::numeric_limits<float>::infinity() : finite_below;
}

inline float sigmoid(float x) { return 1.0F / (1.0F + fast_exp(-x)); }

inline float inverse_rms(const float* x, std::int64_t width, float epsilon) {
    float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t i = 0; i < width; ++i) squares += x[i] * x[i];
    return 1.0F / std::sqrt(squares / static_cast<float>(width) + epsilon);
}

}  // namespace

void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t rows, std::int64_t width, float* y) {
    for (std::int64_t row = 0; row < rows; ++row, x += width, y += width) {
        const float scale = inverse_rms(x, width, epsilon);
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) y[i] = x[i] * scale * weight[i];
    }
}

void rms_norm_backward(const float* x, const float* weight, float epsilon, const float* gradient_y, std::int64_t rows,
                       std::int64_t width, float* gradient_x) {
    for (std::int64_t row = 0; row < rows; ++row, x += width, gradient_y += width, gradient_x += width) {
        const float scale = inverse_rms(x, width, epsilon);
        float dot = 0.0F;
#pragma omp simd reduction(+ : dot)
        for (std::int64_t i = 0; i < width; ++i) dot += x[i] * weight[i] * gradient_y[i];
        const float along = dot * scale * scale / static_cast<float>(width);
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) gradient_x[i] += scale * (weight[i] * gradient_y[i] - x[i] * along);
    }
}

void rms_norm_tangent(const float* x, const float* weight, float epsilon, const float* tangent_x,
                      const float* tangent_weight, std::int64_t rows, std::int64_t width, float* tangent_y) {
    for (std::int64_t row = 0; row < rows; ++row, x += width, tangent_x += width, tangent_y += width) {
        const float scale = inverse_rms(x, width, epsilon);
        float dot = 0.0F;
#pragma omp simd reduction(+ : dot)
        for (std::int64_t i = 0; i < width; ++i) dot += x[i] * tangent_x[i];
        const float along = dot * scale * scale / static_cast<float>(width);
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) tangent_y[i] = scale * (tangent_x[i] - x[i] * along) * weight[i];
        if (tangent_weight != nullptr) {
#pragma omp simd
            for (std::int64_t i = 0; i < width; ++i) tangent_y[i] += scale * x[i] * tangent_weight[i];
        }
    }
}

void swiglu(const float* gate_up, std::int64_t rows, std::int64_t width, float* y) {
    for (std::int64_t row = 0; row < rows; ++row, gate_up += 2 * width, y += width) {
        const float* gate = gate_up;
        const float* up = gate_up + width;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}

void swiglu_backward(const float* gate_up, const float* gradient_y, std::int64_t rows, std::int64_t width,
                     float* gradient_gate_up) {
    for (std::int64_t row = 0; row < rows;
         ++row, gate_up += 2 * width, gradient_y += width, gradient_gate_up += 2 * width) {
        const float* gate = gate_up;
        const float* up = gate_up + width;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) {
            const float s = sigmoid(gate[i]);
            gradient_gate_up[i] = gradient_y[i] * up[i] * s * (1.0F + gate[i] * (1.0F - s));
            gradient_gate_up[width + i] = gradient_y[i] * gate[i] * s;
        }
    }
}

void swiglu_tangent(const float* gate_up, const float* tangent_gate_up, std::int64_t rows, std::int64_t width,
                    float* tangent_y) {
    for (std::int64_t row = 0; row < rows;
         ++row, gate_up += 2 * width, tangent_gate_up += 2 * width, tangent_y += width) {
        const float* gate = gate_up;
        const float* up = gate_up + width;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) {
            const float s = sigmoid(gate[i]);
            tangent_y[i] = tangent_gate_up[i] * up[i] * s * (1.0F + gate[i] * (1.0F - s)) +
                           tangent_gate_up[width + i] * gate[i] * s;
        }
    }
}

void rotate(float* x, std::int64_t rows, std::int64_t stride, std::int64_t heads, std::int64_t head_dim,
            const float* cosine, const float* sine, float direction) {
    const std::int64_t half = head_dim / 2;
    for (std::int64_t row = 0; row < rows; ++row, x += stride, cosine += half, sine += half) {
        for (std::int64_t head = 0; head < heads; ++head) {
            float* first = x + head * head_dim;
            float* second = first + half;
#pragma omp simd
            for (std::int64_t i = 0; i < half; ++i) {
                const float a = first[i];
                const float b = second[i];
                const float s = direction * sine[i];
                first[i] = a * cosine[i] - b * s;
                second[i] = b * cosine[i] + a * s;
            }
        }
    }
}

void causal_softmax(float* scores, std::int64_t batch, std::int64_t rows, std::int64_t width, std::int64_t group,
                    const std::int64_t* valid, float scale) {
    for (std::int64_t matrix = 0; matrix < batch; ++matrix) {
        for (std::int64_t row = 0; row < rows; ++row, scores += width) {
            const std::int64_t length = valid[row / group];
            float largest = scores[0];
#pragma omp simd reduction(max : largest)
            for (std::int64_t i = 0; i < length; ++i) largest = scores[i] > largest ? scores[i] : largest;
            float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
            for (std::int64_t i = 0; i < length; ++i) {
                scores[i] = fast_exp(scale * (scores[i] - largest));
                sum += scores[i];
            }
            const float inverse = 1.0F / sum;
#pragma omp simd
            for (std::int64_t i = 0; i < length; ++i) scores[i] *= inverse;
            for (std::int64_t i = length; i < width; ++i) scores[i] = 0.0F;
        }
    }
}

void softmax_jacobian(const float* probabilities, float* values, std::int64_t rows, std::int64_t width, float scale) {
    for (std::int64_t row = 0; row < rows; ++row, probabilities += width, values += width) {
        float dot = 0.0F;
#pragma omp simd reduction(+ : dot)
        for (std::int64_t i = 0; i < width; ++i) dot += probabilities[i] * values[i];
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) values[i] = scale * probabilities[i] * (values[i] - dot);
    }
}

void cross_entropy(float* logits, std::int64_t rows, std::int64_t width, const std::int64_t* labels, const float* scale,
                   float* loss) {
    for (std::int64_t row = 0; row < rows; ++row, logits += width) {
        float largest = logits[0];
#pragma omp simd reduction(max : largest)
        for (std::int64_t i = 0; i < width; ++i) largest = logits[i] > largest ? logits[i] : largest;
        const float label_logit = logits[labels[row]];
        float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = 0; i < width; ++i) {
            logits[i] = fast_exp(logits[i] - largest);
            sum += logits[i];
        }
        loss[row] = std::log(sum) + (largest - label_logit);
        const float factor = scale[row] / sum;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) logits[i] *= factor;
        logits[labels[row]] -= scale[row];
    }
}

}  // namespace idistill::model::cpu
