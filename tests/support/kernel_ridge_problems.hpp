#pragma once
// Random landmarks, samples and labels for the tests of kernel ridge regression.

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernel_ridge_reference.hpp"

namespace idistill::testing {

inline Row column_of(const Tensor& values, std::int64_t column) {
    Row out;
    for (std::int64_t i = 0; i < values.size(0); ++i) out.push_back(number(values, i, column));
    return out;
}

inline Tensor random_tensor(std::mt19937& random, std::int64_t rows, std::int64_t columns, float scale = 1.0F) {
    auto values = torch::empty({rows, columns}, torch::kFloat32);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < values.numel(); ++i) values.data_ptr<float>()[i] = scale * normal(random);
    return values;
}

inline Features random_features(unsigned seed, std::int64_t rows, std::int64_t width = 6, std::int64_t sources = 5) {
    std::mt19937 random(seed);
    Features features;
    features.embedding = random_tensor(random, rows, width) + 3.0;  // far from the origin, as real embeddings are
    features.log_lengths = random_tensor(random, rows, 2) + 5.0;
    features.source = torch::empty({rows}, torch::kInt64);
    for (std::int64_t i = 0; i < rows; ++i) {
        features.source.data_ptr<std::int64_t>()[i] =
            static_cast<std::int64_t>(random() % static_cast<unsigned>(sources));
    }
    return features;
}

/// Four influence columns of two tasks that depend on embedding and source, and one further column with a large mean.
inline const std::vector<std::int32_t> column_task = {0, 1, 0, 1};

inline Tensor make_labels(const Features& features, unsigned seed, double offset = 0.3) {
    std::mt19937 random(seed);
    const auto e = features.embedding;
    const auto s = features.source.to(torch::kFloat32) / 5.0;
    auto labels = torch::stack({torch::sin(e.select(1, 0)), s + e.select(1, 1) / 4.0, s.square(),
                                torch::cos(e.select(1, 2)) + 2.0 * s, e.select(1, 3) + 10.0},
                               1);
    labels.narrow(1, 0, 4).add_(offset);
    return labels + random_tensor(random, labels.size(0), 5, 0.2F);
}

inline Row task_mean(const Tensor& values, std::int32_t task) {
    Row mean(static_cast<std::size_t>(values.size(0)), 0.0);
    for (std::size_t i = 0; i < mean.size(); ++i) {
        for (std::size_t c = 0; c < column_task.size(); ++c) {
            if (column_task[c] == task)
                mean[i] += number(values, static_cast<std::int64_t>(i), static_cast<std::int64_t>(c)) / 2.0;
        }
    }
    return mean;
}

inline void check_close(double found, double expected, double tolerance, const std::string& what) {
    BOOST_TEST(std::fabs(found - expected) <= tolerance * std::max(1.0, std::fabs(expected)),
               what << ": " << found << ", expected " << expected);
}

}  // namespace idistill::testing
