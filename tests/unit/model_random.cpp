// Random matrices against the numbers of their stream, one by one.

#include <boost/test/unit_test.hpp>

#include "idistill/model/random.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;

namespace {

const Philox random_stream(43, "a purpose", "a name");
const at::TensorOptions in_single = at::TensorOptions().dtype(torch::kFloat32);

}  // namespace

BOOST_AUTO_TEST_SUITE(model_random)

BOOST_AUTO_TEST_CASE(gaussian_numbers_come_in_pairs_of_columns) {
    for (const std::int64_t columns : {1, 4, 5}) {
        const auto matrix = model::gaussian(random_stream, 3, columns, 0.3, in_single);
        for (std::int64_t r = 0; r < 3; ++r)
            for (std::int64_t c = 0; c < columns; ++c) {
                const auto pair =
                    random_stream.normals(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(c / 2));
                BOOST_TEST(matrix[r][c].item<float>() == pair[static_cast<std::size_t>(c % 2)] * 0.3F);
            }
    }
}

BOOST_AUTO_TEST_CASE(signs_are_the_bits_of_a_row_and_rows_may_be_made_apart) {
    const auto matrix = model::signs(random_stream, {0, 4}, 300, 0.25, in_single);
    for (std::int64_t r = 0; r < 4; ++r)
        for (std::int64_t c = 0; c < 300; ++c) {
            const auto words = random_stream.words(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(c / 128));
            const bool set = ((words[static_cast<std::size_t>(c % 128 / 32)] >> (c % 32)) & 1U) != 0;
            BOOST_TEST(matrix[r][c].item<float>() == (set ? 0.25F : -0.25F));
        }
    BOOST_TEST(same_bits(model::signs(random_stream, {2, 2}, 300, 0.25, in_single), matrix.narrow(0, 2, 2)));
    BOOST_TEST(
        same_bits(model::signs(random_stream, {3, 1}, 130, 0.25, in_single), matrix.narrow(0, 3, 1).narrow(1, 0, 130)));
}

// In double precision as well: a model in another precision has the same directions.
BOOST_AUTO_TEST_CASE(numbers_are_drawn_in_single_precision) {
    const auto in_double = at::TensorOptions().dtype(torch::kFloat64);
    BOOST_TEST(same_bits(model::gaussian(random_stream, 3, 5, 0.3, in_double),
                         model::gaussian(random_stream, 3, 5, 0.3, in_single).to(torch::kFloat64)));
    BOOST_TEST(same_bits(model::signs(random_stream, {0, 2}, 9, 0.3, in_double),
                         model::signs(random_stream, {0, 2}, 9, 0.3, in_single).to(torch::kFloat64)));
}

BOOST_AUTO_TEST_SUITE_END()
