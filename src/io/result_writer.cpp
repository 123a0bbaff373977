#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "idistill/io/result_file.hpp"
#include "parallel_file.hpp"
#include "result_format.hpp"

namespace idistill::io {
namespace {

constexpr std::int64_t block_bytes = std::int64_t{32} << 20U;
constexpr std::int64_t string_block_rows = 65'536;
constexpr const char* remedy = "Free disk space or repair the file system, then repeat the command: it continues.";

template <class Use>
void in_blocks(data::RowRange rows, std::int64_t block, const Use& use) {
    for (std::int64_t row = rows.first; row < rows.end(); row += block) {
        use(data::RowRange{row, std::min(block, rows.end() - row)});
    }
}

std::int64_t longest_of(const std::vector<std::string>& values) {
    std::size_t longest = 0;
    for (const std::string& value : values) longest = std::max(longest, value.size());
    return static_cast<std::int64_t>(longest);
}

std::string copied(const std::string& from, const std::string& to) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
    if (!error) fs::permissions(to, fs::perms::owner_write, fs::perm_options::add, error);
    if (!error) return to;
    throw Error(error == std::errc::no_such_file_or_directory ? ExitCode::bad_input : ExitCode::too_large,
                {.where = to,
                 .field = "",
                 .expected = "to copy " + from + " to this file",
                 .found = error.message(),
                 .remedy = "Check folder, permissions and free space, or choose another --out."});
}

}  // namespace

struct ResultWriter::Impl {
    comm::Communicator& communicator;
    std::string out;
    std::string partial;
    ParallelFile parallel;

    /// Rank 0 prepares the path alone; the others meet it at the barrier.
    Impl(comm::Communicator& ranks, std::string path, const std::string* copy_of)
        : communicator(ranks),
          out(std::move(path)),
          partial(out + ".partial"),
          parallel(copy_of == nullptr ? create() : copy(*copy_of)) {
        h5::write_attribute(parallel.file, "format", std::string(result_format));
        h5::write_attribute(parallel.file, "version", result_version);
    }

    ParallelFile create() {
        if (communicator.is_root()) require_creatable(partial);
        communicator.barrier();
        return ParallelFile::create(communicator, partial, ExitCode::too_large, remedy);
    }

    ParallelFile copy(const std::string& from) {
        if (communicator.is_root()) {
            require_creatable(partial);
            copied(from, partial);
        }
        communicator.barrier();
        return ParallelFile::open(communicator, partial, ExitCode::too_large, remedy);
    }

    /// A stalled rank is named here, not inside HDF5's collective calls.
    const h5::File& meet() {
        communicator.barrier();
        return parallel.file;
    }

    h5::Dataset create_strings(const std::string& name, std::int64_t rows, std::int64_t bytes) {
        const h5::File& file = meet();
        h5::remove_link(file, name);
        return h5::create_strings(file, name, rows, bytes);
    }

    template <class T>
    h5::Dataset create_dataset(const std::string& name, std::int64_t rows, std::int64_t width) {
        const h5::File& file = meet();
        h5::remove_link(file, name);
        std::vector<std::int64_t> shape{rows};
        if (width > 0) shape.push_back(width);
        return h5::create_dataset(file, name, h5::type_of<T>::value, std::move(shape));
    }

    void require_all_rows(const std::string& name, std::int64_t rows, data::RowRange mine) {
        std::int64_t written = mine.count;
        communicator.all_reduce(std::span(&written, 1), comm::Reduction::sum);
        if (written == rows) return;
        throw Error(ExitCode::internal_error, {.where = out,
                                               .field = name,
                                               .expected = std::to_string(rows) + " rows over all ranks",
                                               .found = std::to_string(written),
                                               .remedy = ""});
    }
};

ResultWriter::ResultWriter(comm::Communicator& communicator, std::string out)
    : impl_(std::make_unique<Impl>(communicator, std::move(out), nullptr)) {}
ResultWriter::ResultWriter(comm::Communicator& communicator, std::string out, const std::string& copy_of)
    : impl_(std::make_unique<Impl>(communicator, std::move(out), &copy_of)) {}
ResultWriter::~ResultWriter() = default;

void ResultWriter::attribute(const std::string& name, const std::string& value) {
    h5::write_attribute(impl_->meet(), name, value);
}
void ResultWriter::attribute(const std::string& name, std::int64_t value) {
    h5::write_attribute(impl_->meet(), name, value);
}
void ResultWriter::attribute(const std::string& name, double value) { h5::write_attribute(impl_->meet(), name, value); }

template <class T>
void ResultWriter::small(const std::string& name, std::span<const T> values, std::int64_t width) {
    const std::int64_t rows = static_cast<std::int64_t>(values.size()) / std::max<std::int64_t>(width, 1);
    const h5::Dataset dataset = impl_->create_dataset<T>(name, rows, width);
    if (impl_->communicator.is_root()) h5::write_rows<T>(impl_->parallel.file, dataset, 0, rows, values);
}

void ResultWriter::strings(const std::string& name, const std::vector<std::string>& values) {
    const h5::Dataset dataset =
        impl_->create_strings(name, static_cast<std::int64_t>(values.size()), longest_of(values));
    if (impl_->communicator.is_root()) h5::write_strings(impl_->parallel.file, dataset, 0, values);
}

template <class T>
void ResultWriter::rows(const std::string& name, std::int64_t rows, std::int64_t width, data::RowRange mine,
                        const std::function<void(data::RowRange, std::span<T>)>& fill) {
    impl_->require_all_rows(name, rows, mine);
    const h5::Dataset dataset = impl_->create_dataset<T>(name, rows, width);
    const std::int64_t elements = std::max<std::int64_t>(width, 1);
    const std::int64_t block =
        std::max<std::int64_t>(1, block_bytes / (elements * static_cast<std::int64_t>(sizeof(T))));
    std::vector<T> values;
    in_blocks(mine, block, [&](data::RowRange rows_now) {
        values.assign(static_cast<std::size_t>(rows_now.count * elements), T{});
        fill(rows_now, values);
        h5::write_rows<T>(impl_->parallel.file, dataset, rows_now.first, rows_now.count, values);
    });
}

void ResultWriter::row_strings(const std::string& name, std::int64_t rows, data::RowRange mine,
                               const std::function<std::vector<std::string>(data::RowRange)>& fill) {
    impl_->require_all_rows(name, rows, mine);
    std::int64_t longest = 0;
    in_blocks(mine, string_block_rows,
              [&](data::RowRange block) { longest = std::max(longest, longest_of(fill(block))); });
    impl_->communicator.all_reduce(std::span(&longest, 1), comm::Reduction::max);
    const h5::Dataset dataset = impl_->create_strings(name, rows, longest);
    in_blocks(mine, string_block_rows, [&](data::RowRange block) {
        h5::write_strings(impl_->parallel.file, dataset, block.first, fill(block));
    });
}

void ResultWriter::commit() {
    impl_->parallel.close();
    if (impl_->communicator.is_root()) rename_durably(impl_->partial, impl_->out);
    impl_->communicator.barrier();
}

#define IDISTILL_RESULT_TYPE(T)                                                                         \
    template void ResultWriter::small<T>(const std::string&, std::span<const T>, std::int64_t);         \
    template void ResultWriter::rows<T>(const std::string&, std::int64_t, std::int64_t, data::RowRange, \
                                        const std::function<void(data::RowRange, std::span<T>)>&);
IDISTILL_RESULT_TYPE(float)
IDISTILL_RESULT_TYPE(double)
IDISTILL_RESULT_TYPE(std::uint8_t)
IDISTILL_RESULT_TYPE(std::int32_t)
IDISTILL_RESULT_TYPE(std::int64_t)
#undef IDISTILL_RESULT_TYPE

}  // namespace idistill::io
