// The element-wise steps where no fused kernel serves: in 16 bits with sums in 32, against float64; the sums of count
// sketches and of spectra; and the plugin, where it was built.

#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "../../src/model/kernels_cuda.hpp"
#include "idistill/model/kernels.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;

namespace {

constexpr double epsilon = 1e-5;
constexpr double one_rounding = 1.0 / 256;

Tensor narrow16(const Tensor& x) { return x.to(torch::kBFloat16); }
/// What a bfloat16 tensor holds, in double.
Tensor rounded(const Tensor& x) { return narrow16(x).to(torch::kFloat64); }

void check_rounded(const Tensor& found, const Tensor& expected) {
    BOOST_TEST(found.scalar_type() == torch::kBFloat16);
    BOOST_TEST(relative_error(found, expected) < one_rounding);
}

/// Calls body(rows, width); the wide ones hold sums that 16 bits do not.
template <class Body>
void for_shapes(Body&& body) {
    for (const std::int64_t rows : {1, 5})
        for (const std::int64_t width : {2, 17, 4096}) body(rows, width);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_kernels_bf16)

BOOST_AUTO_TEST_CASE(norms_in_16_bits_are_those_in_64_rounded_once) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const auto x = rounded(normal({rows, width}, 1)), weight = rounded(normal({width}, 2)),
                   a = rounded(normal({rows, width}, 3)), b = rounded(normal({width}, 4));
        check_rounded(model::rms_norm(narrow16(x), narrow16(weight), epsilon), model::rms_norm(x, weight, epsilon));
        auto found = narrow16(a), expected = a.clone();
        model::rms_norm_backward_(found, narrow16(x), narrow16(weight), epsilon, narrow16(a));
        model::rms_norm_backward_(expected, x, weight, epsilon, a);
        check_rounded(found, expected);
        for (const auto& direction : {b, Tensor()}) {
            model::rms_norm_tangent(found, narrow16(x), narrow16(weight), epsilon, narrow16(a),
                                    direction.defined() ? narrow16(direction) : direction);
            model::rms_norm_tangent(expected, x, weight, epsilon, a, direction);
            check_rounded(found, expected);
        }
    });
}

BOOST_AUTO_TEST_CASE(activations_and_rotations_in_16_bits_are_those_in_64_rounded_once) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const auto x = rounded(4 * normal({rows, 2 * width}, 1)), t = rounded(normal({rows, 2 * width}, 2)),
                   g = rounded(normal({rows, width}, 3));
        check_rounded(model::swiglu(narrow16(x)), model::swiglu(x));
        check_rounded(model::swiglu_backward(narrow16(x), narrow16(g)), model::swiglu_backward(x, g));
        auto found = narrow16(g), expected = g.clone();
        model::swiglu_tangent(found, narrow16(x), narrow16(t));
        model::swiglu_tangent(expected, x, t);
        check_rounded(found, expected);

        const auto angle = normal({rows, width}, 4).to(torch::kFloat32);
        auto turned = narrow16(x), right = x.clone();
        model::rotate_(turned, 2 * width, angle.cos(), angle.sin());
        model::rotate_(right, 2 * width, angle.cos(), angle.sin());
        check_rounded(turned, right);
    });
}

BOOST_AUTO_TEST_CASE(softmax_in_16_bits_is_that_in_64_rounded_once) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const std::vector<std::int64_t> valid(static_cast<std::size_t>(rows), width - 1);
        const auto scores = rounded(5 * normal({2, rows, width}, 1)), values = rounded(normal({2, rows, width}, 2));
        auto found = narrow16(scores), expected = scores.clone();
        model::causal_softmax_(found, 1, valid.data(), 0.37);
        model::causal_softmax_(expected, 1, valid.data(), 0.37);
        check_rounded(found, expected);
        if (width == 2) return;  // of one number: 1, whose tangent is rounding alone
        auto tangent = narrow16(values), right = values.clone();
        model::softmax_jacobian_(tangent, found, 0.37);
        model::softmax_jacobian_(right, found.to(torch::kFloat64), 0.37);
        check_rounded(tangent, right);
    });
}

BOOST_AUTO_TEST_CASE(losses_of_logits_in_16_bits_are_in_32) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const auto logits = rounded(3 * normal({rows, width}, 1)), scale = normal({rows}, 2).to(torch::kFloat32);
        const auto labels = at::arange(rows, at::TensorOptions().dtype(torch::kInt64)).remainder_(width);
        auto found = narrow16(logits), expected = logits.clone();
        const auto loss = model::cross_entropy_(found, labels, scale);
        const auto right = model::cross_entropy_(expected, labels, scale.to(torch::kFloat64));
        BOOST_TEST(loss.scalar_type() == torch::kFloat32);
        BOOST_TEST(relative_error(loss, right) < 1e-5);
        check_rounded(found, expected);
    });
}

// Every sample has its own, a query of padding none.
BOOST_AUTO_TEST_CASE(visible_keys_of_several_samples_are_those_of_each_alone) {
    constexpr std::int64_t samples = 3, heads = 2, queries = 4, group = 2, keys = 7;
    const auto scores = normal({samples * heads, queries * group, keys}, 1);
    const auto valid = at::arange(samples * queries, at::TensorOptions().dtype(torch::kInt64)).remainder_(keys + 1);
    const auto by_sample = valid.view({samples, queries});
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
        auto together = scores.to(type, false, true);
        model::causal_softmax_(together, group, by_sample, 0.7);
        for (std::int64_t row = 0; row < samples * heads * queries * group; ++row) {
            const auto sample = row / (heads * queries * group), query = row % (queries * group) / group;
            const auto seen = by_sample[sample][query].item<std::int64_t>();
            const auto own = together.view({-1, keys})[row];
            BOOST_TEST(own.narrow(0, seen, keys - seen).count_nonzero().item<std::int64_t>() == 0);
            if (seen > 0)
                BOOST_TEST(relative_error(own.narrow(0, 0, seen),
                                          at::softmax(0.7 * scores.view({-1, keys})[row].narrow(0, 0, seen), 0)) <
                           1e-6);
        }
    }
}

BOOST_AUTO_TEST_CASE(sums_of_buckets_have_every_column_with_its_sign) {
    constexpr std::int64_t rows = 3, width = 40;
    for (const std::int64_t count : {1, 7, 90}) {
        const auto bucket = (at::arange(width, at::TensorOptions().dtype(torch::kInt64)) * 37).remainder_(count);
        const auto sign = at::where(normal({width}, 1).gt(0), 1, -1).to(torch::kFloat32);
        const auto wide = rounded(normal({rows, width + 3}, 2));
        const auto x = wide.narrow(1, 2, width);
        auto expected = at::zeros({rows, count}, x.options());
        for (std::int64_t i = 0; i < width; ++i)
            expected.select(1, bucket[i].item<std::int64_t>()).add_(x.select(1, i), sign[i].item());
        const auto buckets = model::by_bucket(bucket, sign, count);
        BOOST_TEST(buckets.order.scalar_type() == torch::kInt32);
        for (const auto type : {torch::kFloat64, torch::kFloat32, torch::kBFloat16}) {
            const auto sums = model::bucket_sums(x.to(type), buckets);
            BOOST_TEST(sums.scalar_type() == (type == torch::kFloat64 ? type : torch::kFloat32));
            BOOST_TEST(relative_error(sums, expected) < 1e-6);
        }
    }
}

BOOST_AUTO_TEST_CASE(sums_of_products_have_every_row_of_their_segment) {
    const std::vector<std::int32_t> offsets{0, 2, 2, 3, 8};
    const auto spectrum = [](std::uint64_t seed) { return at::view_as_complex(normal({8, 5, 2}, seed)); };
    const auto a = spectrum(1), b = spectrum(2);
    const auto sums = model::product_sums(a, b, at::tensor(offsets, at::TensorOptions().dtype(torch::kInt32)));
    BOOST_TEST(sums.size(0) == 4);
    for (std::int64_t i = 0; i < 4; ++i) {
        const auto first = offsets[static_cast<std::size_t>(i)], end = offsets[static_cast<std::size_t>(i) + 1];
        const auto expected = (a * b).narrow(0, first, end - first).sum(0);
        BOOST_TEST(relative_error(at::view_as_real(sums[i]), at::view_as_real(expected)) < 1e-14);
    }
}

BOOST_AUTO_TEST_CASE(the_plugin_loads_where_no_gpu_is) {
    const auto program = std::filesystem::read_symlink("/proc/self/exe");
    const bool built = exists(program.parent_path().parent_path() / "libidistill_cuda.so");
    const auto* kernels = model::cuda_kernels();
    BOOST_TEST((kernels != nullptr) == built);
    if (built) BOOST_TEST(kernels->version == model::cuda_kernels_version);
}

BOOST_AUTO_TEST_SUITE_END()
