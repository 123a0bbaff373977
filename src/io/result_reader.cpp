#include <algorithm>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "idistill/data/hdf5_handle.hpp"
#include "idistill/io/result_file.hpp"

namespace idistill::io {
namespace {

std::string shown(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const std::int64_t size : shape) text += (text.empty() ? "" : " x ") + std::to_string(size);
    return text + " values";
}

}  // namespace

struct ResultReader::Impl {
    h5::File file;

    template <class T>
    [[nodiscard]] h5::Dataset open(const std::string& name) const {
        const std::size_t dimensions = h5::shape_of(file, name).size() == 2 ? 2 : 1;
        return h5::open_dataset(file, name, h5::type_of<T>::value, dimensions);
    }
};

ResultReader::ResultReader(const std::string& path)
    : impl_(std::make_unique<Impl>(Impl{h5::open_read_only(
          path, ExitCode::bad_input, "Give the finished result of an idistill_mpi run of this version.")})) {
    const std::string format = h5::text_attribute(impl_->file, "format");
    if (format != result_format.name) h5::mismatch(impl_->file, "attribute format", result_format.name, format);
    const std::int64_t version = h5::integer_attribute(impl_->file, "version");
    if (version != result_format.version)
        h5::mismatch(impl_->file, "attribute version", std::to_string(result_format.version), std::to_string(version));
}
ResultReader::~ResultReader() = default;

std::string ResultReader::attribute(const std::string& name) const { return h5::any_attribute(impl_->file, name); }

const std::string& ResultReader::path() const { return impl_->file.path; }

bool ResultReader::has(const std::string& name) const { return h5::has_link(impl_->file, name); }

std::string ResultReader::setting(const std::string& name) const {
    const auto settings = nlohmann::json::parse(attribute("settings"), nullptr, false);
    if (!settings.is_object() || !settings.contains(name)) return {};
    const auto& value = settings[name];
    return value.is_string() ? value.get<std::string>() : value.is_number() ? value.dump() : "";
}

std::int64_t ResultReader::row_count(const std::string& dataset) const {
    const auto shape = h5::shape_of(impl_->file, dataset);
    return shape.empty() ? 0 : shape.front();
}

std::int64_t ResultReader::width(const std::string& dataset) const {
    const auto shape = h5::shape_of(impl_->file, dataset);
    return shape.size() < 2 ? 0 : shape[1];
}

template <class T>
void ResultReader::require(const std::string& dataset, const std::vector<std::int64_t>& shape) const {
    std::vector<std::int64_t> found;
    if constexpr (std::is_same_v<T, std::string>) {
        found = h5::open_strings(impl_->file, dataset).shape;
    } else {
        found = h5::open_dataset(impl_->file, dataset, h5::type_of<T>::value, shape.size()).shape;
    }
    if (found != shape) refuse(dataset, shown(shape), shown(found));
}

void ResultReader::refuse(const std::string& dataset, const std::string& expected, const std::string& found) const {
    h5::mismatch(impl_->file, dataset, expected, found);
}

template <class T>
std::vector<T> ResultReader::read(const std::string& dataset) const {
    const h5::Dataset opened = impl_->open<T>(dataset);
    std::vector<T> values(static_cast<std::size_t>(opened.rows() * opened.row_elements()));
    h5::read_rows<T>(impl_->file, opened, 0, opened.rows(), values);
    return values;
}

template <class T>
std::vector<T> ResultReader::read_bounded(const std::string& dataset, std::int64_t count, std::int64_t bound,
                                          const std::string& meaning) const {
    require<T>(dataset, {count});
    auto values = read<T>(dataset);
    const auto wrong = std::find_if(values.begin(), values.end(), [&](T x) { return x < 0 || x >= bound; });
    if (wrong != values.end())
        refuse(dataset, meaning + " below " + std::to_string(bound),
               std::to_string(*wrong) + " at place " + std::to_string(wrong - values.begin()));
    return values;
}

template <class T>
void ResultReader::read_rows(const std::string& dataset, data::RowRange rows, std::span<T> out) const {
    h5::read_rows<T>(impl_->file, impl_->open<T>(dataset), rows.first, rows.count, out);
}

std::vector<std::string> ResultReader::read_strings(const std::string& dataset) const {
    const h5::Dataset opened = h5::open_strings(impl_->file, dataset);
    return h5::read_strings(impl_->file, opened, 0, opened.rows());
}

std::vector<std::string> ResultReader::read_strings(const std::string& dataset, data::RowRange rows) const {
    return h5::read_strings(impl_->file, h5::open_strings(impl_->file, dataset), rows.first, rows.count);
}

#define IDISTILL_RESULT_TYPE(T)                                                                         \
    template void ResultReader::require<T>(const std::string&, const std::vector<std::int64_t>&) const; \
    template std::vector<T> ResultReader::read<T>(const std::string&) const;                            \
    template void ResultReader::read_rows<T>(const std::string&, data::RowRange, std::span<T>) const;
IDISTILL_RESULT_TYPE(float)
IDISTILL_RESULT_TYPE(double)
IDISTILL_RESULT_TYPE(std::uint8_t)
IDISTILL_RESULT_TYPE(std::int32_t)
IDISTILL_RESULT_TYPE(std::int64_t)
#undef IDISTILL_RESULT_TYPE
template std::vector<std::int32_t> ResultReader::read_bounded(const std::string&, std::int64_t, std::int64_t,
                                                              const std::string&) const;
template std::vector<std::int64_t> ResultReader::read_bounded(const std::string&, std::int64_t, std::int64_t,
                                                              const std::string&) const;
template void ResultReader::require<std::string>(const std::string&, const std::vector<std::int64_t>&) const;

}  // namespace idistill::io
