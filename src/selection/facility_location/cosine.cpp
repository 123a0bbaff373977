#include <cmath>
#include <limits>
#include <utility>

#include "idistill/selection/similarity.hpp"
#include "kernels.hpp"

namespace idistill::selection {
namespace {

class Cosine final : public Similarity {
public:
    Cosine(std::int64_t width, ReadFactors read) : width_(width), read_(std::move(read)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    void read(std::span<const std::int64_t> rows, std::span<float> out) const override {
        read_(rows, out);
        const auto columns = static_cast<std::size_t>(width_);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const auto row = out.subspan(i * columns, columns);
            double squares = 0.0;
            for (const float value : row) squares += static_cast<double>(value) * static_cast<double>(value);
            const double scale = squares > 0.0 ? 1.0 / std::sqrt(squares) : std::numeric_limits<double>::quiet_NaN();
            for (float& value : row) value = static_cast<float>(static_cast<double>(value) * scale);
        }
    }
    void compare(std::span<const float> tile, std::span<const float> candidates, std::span<float> out) const override {
        tile_products(tile, candidates, width_, out);
    }

private:
    std::int64_t width_;
    ReadFactors read_;
};

}  // namespace

std::unique_ptr<Similarity> cosine_similarity(std::int64_t width, ReadFactors read) {
    return std::make_unique<Cosine>(width, std::move(read));
}

}  // namespace idistill::selection
